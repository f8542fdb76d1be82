"""What an ``.onnx`` file from elsewhere may hold, checked before ONNX Runtime sees it.

ONNX Runtime opens files that a model names, and takes memory for shapes as they are stated. So the
protocol buffer is walked here, without making anything of it, and a model has to hold its weights
itself, in tensors no larger than their bytes. A field that occurs twice is checked twice, so
nothing depends on which of the two another reader believes.
"""

import math
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.limits import LARGEST_MODEL, LARGEST_WEIGHTS, check_part, read_plain

DEEPEST = 32
"""Graphs within nodes within graphs."""
MOST_NODES = 100_000
"""Nodes of a model once its functions are written out where they are called."""
MOST_FIELDS, MOST_DIMS = 1 << 20, 64
"""Fields of a model in all, and sizes of one tensor."""

LOOPS = frozenset((b"Loop", b"Scan", b"SequenceMap"))
CHANCE = frozenset((b"Bernoulli", b"Multinomial", b"Sampling"))
"""And ``Random..``, and a ``Dropout`` that is told whether it trains: their numbers are hidden in
ONNX Runtime, where no trial of a network sees them."""
OF_WHOLE = frozenset((b"If", b"NonZero", b"Unique", b"Compress"))
"""What decides for a batch as a whole: whether something is done, or of how many values."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TENSOR, _SPARSE = "tensor", "sparse tensor"
# Fields that hold further messages, by number, as onnx.proto3 has them.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: _TENSOR, 15: _SPARSE},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: _SPARSE, 23: _SPARSE},
    _TENSOR: {},
}
_INPUT, _OPERATOR, _DIMS, _EXTERNAL_DATA, _DATA_LOCATION = 1, 4, 1, 13, 14
# Numbers of name and domain.
_NAMED = {"node": (_OPERATOR, 7), "function": (1, 10)}
_Name = tuple[bytes, bytes]


def read_with_data(path: Path) -> tuple[bytes, dict[str, bytes], bool]:
    """Bytes of an ``.onnx`` file without loops, which may never end, of ``NAME.data``, `OF_WHOLE`.

    It holds all it needs, or has weights in that file beside it, as `torch.onnx.export` writes it.
    """
    walk, beside = _Walk(path, False), dict[str, bytes]()
    data, name = _walked(path, walk), f"{path.name}.data"
    if walk.outside:
        beside[name] = read_plain(check_part(path.parent, name, LARGEST_WEIGHTS), LARGEST_WEIGHTS)
    return data, beside, walk.of_whole


def read_deployed(path: Path) -> bytes | str:
    """Bytes of a file of a deployment, which may loop; weights may stand in ``NAME.data``.

    Then it gives the path: ONNX Runtime looks for them there.
    """
    walk = _Walk(path, True)
    data = _walked(path, walk)
    return str(path) if walk.outside else data


def _walked(path: Path, walk: "_Walk") -> bytes:
    data = read_plain(path, LARGEST_MODEL, links=True)
    walk.message("model", memoryview(data), 0)
    walk.check_functions()
    return data


class _Walk:
    def __init__(self, path: Path, loops: bool) -> None:
        self._path, self._loops, self._beside = path, loops, f"{path.name}.data".encode()
        self._left = {"field": MOST_FIELDS, "node": MOST_NODES}
        self.outside, self.of_whole = 0, False  # tensors whose bytes stand beside the file
        self._calls: Counter[_Name] = Counter()  # of the graph or function that is walked
        self._functions: dict[_Name, list[Counter[_Name]]] = {}

    def message(self, kind: str, data: memoryview, depth: int) -> None:
        """Check a message and those in it."""
        if depth > 3 * DEEPEST + 3:
            raise FileError(self._path, f"must not nest more than {DEEPEST} graphs", "deeper ones")
        if kind == _SPARSE:
            raise FileError(self._path, "must hold dense weights", "a sparse tensor")
        self._spend(kind)
        dims: list[int] = []
        before, around = self.outside, self._calls
        if kind == "function":
            self._calls = Counter()
        try:
            names = _names(kind, data)
            for number, value in _fields(data):
                self._spend("field")
                part = _PARTS[kind].get(number)
                if part is not None:
                    self.message(part, _as_bytes(value), depth + 1)
                elif kind == _TENSOR:
                    self._tensor_field(number, value, dims)
                elif kind == "node" and number == _OPERATOR:
                    self._operator(bytes(_as_bytes(value)), data)
        except ValueError as error:
            raise FileError(self._path, "must be an ONNX file", error) from error
        if kind == "node":
            self._calls.update(names)
        elif kind == "function":
            for name in names:
                self._functions.setdefault(name, []).append(self._calls)
            self._calls = around
        if kind == _TENSOR and self.outside == before and not _fits(dims, len(data)):
            rule = "must hold the bytes of every tensor"
            raise FileError(self._path, rule, f"shape {dims[:8]} in {len(data)} bytes")

    def _spend(self, kind: str) -> None:
        """Refuse a model of too many nodes or fields: each takes time, even an empty one."""
        if kind in self._left:
            self._left[kind] -= 1
            if self._left[kind] < 0:
                most = {"field": MOST_FIELDS, "node": MOST_NODES}[kind]
                raise FileError(self._path, f"must have at most {most} {kind}s", "more")

    def check_functions(self) -> None:
        """Refuse functions that call each other in a ring, or more and more often."""
        known: dict[_Name, int] = {}

        def size(calls: Counter[_Name]) -> int:
            return sum(count * (1 + known.get(name, 0)) for name, count in calls.items())

        called = {n: self._functions.keys() & set().union(*b) for n, b in self._functions.items()}
        try:
            for name in TopologicalSorter(called).static_order():
                known[name] = sum(size(body) for body in self._functions[name])
        except CycleError as error:
            rule = "must not hold functions that call themselves"
            raise FileError(self._path, rule, repr(error.args[1][0])) from error
        if (nodes := size(self._calls)) > MOST_NODES:
            rule = f"must have at most {MOST_NODES} nodes with its functions written out"
            raise FileError(self._path, rule, nodes if nodes < 1 << 64 else "far more")

    def _tensor_field(self, number: int, value: int | memoryview, dims: list[int]) -> None:
        if number == _DIMS:
            dims += [value] if isinstance(value, int) else list(_varints(value))
            if len(dims) > MOST_DIMS:
                raise ValueError(f"a tensor of more than {MOST_DIMS} sizes")
        elif number == _DATA_LOCATION and value != 0:
            self.outside += 1
        elif number == _EXTERNAL_DATA:
            keys, names = (_texts(_as_bytes(value), field) for field in (1, 2))
            alone = (keys, names) == ([b"location"], [self._beside])
            if b"location" in keys and not alone:
                self._refuse_outside(b", ".join(names))
            place = keys in ([b"offset"], [b"length"]) and len(names) == 1
            if place and int(names[0]) > self._room():
                raise FileError(self._path, "must name bytes that are there", names[0].decode())

    def _room(self) -> int:
        """Bytes of the file beside the model."""
        return check_part(self._path.parent, self._beside.decode(), LARGEST_WEIGHTS).stat().st_size

    def _refuse_outside(self, place: bytes) -> None:
        rule = f"must hold its weights, or have them in {self._path.name}.data beside it"
        received = f"weights in {place.decode(errors='replace')[:80]!a}"
        hint = "keep both names, or write it with external_data=False"
        raise FileError(self._path, rule, received, hint)

    def _operator(self, name: bytes, node: memoryview) -> None:
        if name in LOOPS and not self._loops:
            raise FileError(self._path, "must not loop", name.decode(), "unroll it")
        self.of_whole |= name in OF_WHOLE
        trains = b"Dropout" in name and any(_texts(node, _INPUT)[2:])
        if trains or name in CHANCE or name.startswith(b"Random"):
            rule, hint = "must not draw random numbers", "export the network in eval mode"
            raise FileError(self._path, rule, name.decode(errors="replace"), hint)


def _names(kind: str, data: memoryview) -> list[_Name]:
    """Name and domain of a function, or of the one a node calls, if it has any."""
    if kind not in _NAMED:
        return []
    texts, domains = ({*_texts(data, number)} for number in _NAMED[kind])
    if max(len(texts), len(domains)) > 1:
        raise ValueError(f"a {kind} with two names")
    domain = next(iter(domains - {b"ai.onnx"}), b"")
    return [(text, domain) for text in texts]


def _fits(dims: list[int], size: int) -> bool:
    """Whether a message has room for a tensor: half a byte per value is the least there is."""
    return all(dim < 1 << 63 for dim in dims) and math.prod(dims) <= 2 * size


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field of a message; ValueError if it is none."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if size > len(data) - place:
            raise ValueError(f"a field of {size} bytes where {len(data) - place} are left")
        yield key >> 3, data[place : place + size]
        place += size


def _texts(data: memoryview, wanted: int) -> list[bytes]:
    """Contents of every field of that number."""
    return [bytes(_as_bytes(value)) for number, value in _fields(data) if number == wanted]


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """An integer and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("an integer that is cut off")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value & ((1 << 64) - 1), place
    raise ValueError("an integer of more than ten bytes")


def _varints(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message must be")
    return value
