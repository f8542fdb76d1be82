"""Reader of CIFAR-10 in its two official layouts, Python batches and binary batches.

The Python batches are pickles, and a pickle can run any code. So the opcodes are checked against
the few such a batch needs, and every name in it becomes a stand-in of this module: no function or
class the file asks for is ever called. The arrays are built afterwards from checked parts.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.readers import check_labels
from dualsmooth.engine.errors import FileError, reason_of
from dualsmooth.engine.limits import LARGEST_MODEL, read_plain

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_PIXELS = 3 * 32 * 32
_BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_MOST_TUPLES = 100
_OPCODES = frozenset(
    "PROTO FRAME MARK STOP NONE NEWTRUE NEWFALSE EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS BININT BININT1 BININT2 SHORT_BINSTRING "
    "BINSTRING SHORT_BINBYTES BINBYTES SHORT_BINUNICODE BINUNICODE BINPUT LONG_BINPUT BINGET "
    "LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)


def read_cifar10(folder: Path, split: str, name: str) -> ImageSet:
    """Read the batches of a split: uint8 images (n, 32, 32, 3) of ten classes."""
    parts = [_batch(path) for path in _batch_paths(folder, split)]
    planes = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in parts])
    return ImageSet(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, name, CLASSES)


def _batch_paths(folder: Path, split: str) -> list[Path]:
    for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-10-batches-bin"):
        for suffix in ("", ".bin"):
            paths = [place / (batch + suffix) for batch in _BATCHES[split]]
            if paths[0].is_file():
                for path in paths:
                    if not path.is_file():
                        raise FileError(path, "is missing")
                return paths
    first = _BATCHES[split][0]
    raise FileError(folder / first, "is missing", hint=f"{first}.bin would do as well")


def _batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = read_plain(path, LARGEST_MODEL, links=True)
    pixels, labels = _from_records(path, data) if path.suffix else _from_pickle(path, data)
    if len(labels) == 0 or len(pixels) != len(labels):
        received = f"{len(pixels)} images, {len(labels)} labels"
        raise FileError(path, "must have one label for each image, and one at least", received)
    check_labels(path, labels, len(CLASSES))
    return pixels, labels


def _from_records(path: Path, data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if len(data) % (1 + _PIXELS):
        rule = f"must hold records of {1 + _PIXELS} bytes"
        raise FileError(path, rule, f"{len(data)} bytes", "truncated")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _from_pickle(path: Path, data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        batch = _load_pickle(data)
    except Exception as error:  # a damaged pickle raises anything
        received = reason_of(error)
        raise FileError(path, "must be a CIFAR-10 batch", received) from error
    if not isinstance(batch, dict):
        raise FileError(path, "must hold a dictionary", type(batch).__name__)
    array = batch.get(b"data", batch.get("data"))
    labels = batch.get(b"labels", batch.get("labels"))
    if not isinstance(array, _Array):
        raise FileError(path, "data must be an array", type(array).__name__)
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise FileError(path, "labels must be a list of integers", type(labels).__name__)
    return array.pixels(path), np.array(labels, np.int64)


def _load_pickle(data: bytes) -> object:
    _refuse_nests(data)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"opcode {opcode.name} is not allowed")
        # Memo slots are numbered in order; a large one would make the unpickler fill memory.
        if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > count:
            raise pickle.UnpicklingError(f"memo slot {argument} is out of order")
    return _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()


def _refuse_nests(data: bytes) -> None:
    """Refuse a tuple that is used twice, and many tuples in each other: a key of such is hashed."""
    tuples, slots, kept, before = set[object](), 0, 0, ""
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            if before.startswith("TUPLE"):
                tuples.add(slots if name == "MEMOIZE" else argument)
            slots += 1
            continue
        if before.startswith("TUPLE") and name not in ("REDUCE", "BUILD"):
            kept += 1
        if kept > _MOST_TUPLES or (name in ("BINGET", "LONG_BINGET") and argument in tuples):
            raise pickle.UnpicklingError("tuples in each other")
        before = name


class _BatchUnpickler(pickle.Unpickler):
    """Finds stand-ins for the names a batch needs, and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None


class _Dtype:
    """Stands in for numpy.dtype: remembers what it was made with."""

    def __init__(self, *arguments: object) -> None:
        self.code = arguments[0]

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array:
    """Stands in for numpy.ndarray: remembers its state."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """The array as uint8 (n, 3072), if that is what the state describes."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise FileError(path, "data must be a complete array", "one without its state")
        _, shape, dtype, fortran, raw = self.state
        code = dtype.code if isinstance(dtype, _Dtype) else dtype
        if not isinstance(code, str | bytes) or code not in ("u1", b"u1"):
            received = repr(code[:20]) if isinstance(code, str | bytes) else type(code).__name__
            raise FileError(path, "data must be uint8", f"dtype {received}")
        if not isinstance(raw, bytes) or len(raw) % _PIXELS:
            received = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
            raise FileError(path, f"data must have rows of {_PIXELS} bytes", received)
        expected = (len(raw) // _PIXELS, _PIXELS)
        plain = isinstance(shape, tuple) and all(type(size) is int for size in shape)
        if not plain or shape != expected:
            received = shape[:4] if plain else "one of other things"
            raise FileError(path, f"data must have shape {expected}", received)
        order: Literal["C", "F"] = "F" if fortran else "C"
        return np.frombuffer(raw, np.uint8).reshape(shape, order=order)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, codec: str) -> bytes:
    if codec not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"codec {codec!r} is not allowed")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}
