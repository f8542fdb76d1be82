"""Files of ``torch.save``, read without running code from them or doing work without end.

``weights_only=True`` keeps code from running. It still hashes tuples that hold each other a billion
times over and makes tensors of any size, so the file's opcodes are followed first (`_Follower`).
"""

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dualsmooth.engine.errors import FileError, reason_of
from dualsmooth.engine.limits import LARGEST_WEIGHTS, Sparing, check_size, check_stored

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_CALLED = frozenset(
    "collections.OrderedDict collections.Counter builtins.set builtins.complex _codecs.encode "
    "torch.Size torch.device torch.nn.parameter.Parameter torch._utils._rebuild_tensor "
    "torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter".split()
)
"""What a file may call: nothing that makes more than its arguments hold."""
_IGNORED = (
    "argparse.Namespace pathlib.PosixPath pathlib.WindowsPath pathlib._local.PosixPath "
    "numpy.dtype numpy.ndarray numpy.core.multiarray.scalar numpy._core.multiarray.scalar "
    "numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct"
).split()
_MOST, _MOST_OPCODES = 10_000, 1 << 18
_RULE = "must be a torch checkpoint of plain tensors"


class Ignored:
    """Stands for an object beside the weights that no vote depends on: settings and scores."""

    def __new__(cls, *_: object) -> "Ignored":
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget it."""


def load_torch_file(path: Path) -> Mapping[object, object]:
    """The mapping in a torch file; settings, paths and NumPy's numbers in it are `Ignored`."""
    check_size(path, LARGEST_WEIGHTS)
    try:
        _check_opcodes(path)
        ignored: list[Any] = [(Ignored, name) for name in _IGNORED]
        with torch.serialization.safe_globals(ignored):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except Exception as error:  # zip, pickle and storage readers raise many kinds
        named = re.search(r"GLOBAL (\S+)", str(error))
        received, hint = reason_of(error), ""
        if isinstance(error, zipfile.BadZipFile | KeyError | EOFError):
            received = f"another file, or a damaged one ({received})"
        if named:
            received = f"{type(error).__name__}: {named[0]}"
            hint = "of a whole module save module.state_dict() instead"
        if named and "torch.nn.modules" in named[0]:
            received = f"a whole module ({named[0]})"
        raise FileError(path, _RULE, received, hint) from error
    if not isinstance(found, Mapping):
        raise FileError(path, "must be a mapping with tensors in it", type(found).__name__)
    return found


def float_weights(path: Path, name: str, value: object) -> torch.Tensor:
    """A tensor of a file as float32, contiguous; half precision is exact, double is rounded."""
    rule = f"tensor {name} must be one dense float32 tensor, or float16, bfloat16 or float64"
    if not isinstance(value, torch.Tensor):
        raise FileError(path, rule, type(value).__name__)
    if value.layout is not torch.strided or value.dtype not in _FLOATS:
        raise FileError(path, rule, f"{value.dtype}, {value.layout}")
    if value.numel() * value.itemsize > value.untyped_storage().nbytes():
        raise FileError(path, f"tensor {name} must hold its values", f"shape {tuple(value.shape)}")
    found = value.detach().to(torch.float32).contiguous()
    if not found.isfinite().all():
        raise FileError(path, f"tensor {name} must be finite in float32", "NaN or infinity")
    return found


def _check_opcodes(path: Path) -> None:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"  # as PyTorch tells them apart
        file.seek(0)
        if not zipped:  # magic number, version, machine, content, names of storages
            left = iter(range(_MOST_OPCODES))
            parts = [_Follower(path.stat().st_size, left) for _ in range(5)]
            for part in parts:
                part.follow(Sparing(file))
            if not parts[3].storages <= parts[4].texts:
                raise ValueError("storages without content")
            return
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
    check_stored(path, ".pkl")
    with zipfile.ZipFile(path) as archive:
        pickle, left = archive.read(f"{root}/data.pkl"), iter(range(_MOST_OPCODES))
        _Follower(path.stat().st_size, left).follow(Sparing(io.BytesIO(pickle)))


class _Shadow(NamedTuple):
    """An object as the opcodes show it.

    ``size`` counts its entries when written out in full, ``value`` is a number, a text or a tuple
    of shadows, ``made`` the name of a class or function, or of what made it.
    """

    size: int = 1
    value: Any = None
    made: str = ""


class _Follower:
    """Follows a pickle; ValueError if it does more than a file of that size has to, or more
    opcodes than are left.

    Lists and mappings are no matter: nothing here looks into them but by one name.
    """

    def __init__(self, most: int, left: Iterator[int]) -> None:
        self.most, self.stored, self.left = most, 0, left
        self.storages: set[object] = set()
        self.texts: set[object] = set()
        self.stack: list[_Shadow] = []

    def follow(self, file: Sparing) -> None:
        """Read one pickle."""
        stack, marks, memo = self.stack, list[int](), dict[Any, _Shadow]()
        for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]
            if next(self.left, None) is None:
                raise ValueError(f"more than {_MOST_OPCODES} opcodes")
            name = opcode.name
            if name == "MARK":
                marks.append(len(stack))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name.startswith("TUPLE") or name in ("APPENDS", "SETITEMS"):
                start = len(stack) - int(name[5:]) if name[5:].isdigit() else marks.pop()
                parts, stack[start:] = tuple(stack[start:]), []
                if name.startswith("TUPLE"):
                    stack.append(_Shadow(1 + sum(part.size for part in parts), parts))
            elif name in ("REDUCE", "NEWOBJ"):
                arguments, called = stack.pop(), stack.pop()
                self._check_call(called.made, arguments.value)
                stack.append(_Shadow(made=f"{called.made}()"))
            elif name in ("APPEND", "SETITEM"):
                del stack[-2 if name == "SETITEM" else -1 :]
            elif name == "BUILD":
                stack.pop()
                self._check_state(stack[-1].made.removesuffix("()"))
            elif name == "BINPERSID":
                stack[-1] = self._storage(*stack[-1].value)
            elif name == "GLOBAL":
                made = str(argument).replace(" ", ".").replace("__builtin__", "builtins")
                stack.append(_Shadow(made=made))
            elif name not in ("PROTO", "STOP"):
                self.texts.add(argument)
                stack.append(_Shadow(value=() if name == "EMPTY_TUPLE" else argument))
            if stack and stack[-1].size > _MOST:
                raise ValueError(f"a tuple of {stack[-1].size} entries")

    def _storage(self, *parts: _Shadow) -> _Shadow:
        _, _, name, _, values = (part.value for part in parts[:5])
        if name not in self.storages:
            self.storages.add(name)
            self.stored += values
        if not 0 <= self.stored <= self.most:
            raise ValueError(f"storages of {self.stored} values in {self.most} bytes")
        return _Shadow(value=values, made="storage")

    def _check_call(self, name: str, arguments: Any) -> None:
        """Refuse a call that may make more than it is given."""
        if name not in _CALLED and name not in _IGNORED:
            raise ValueError(f"GLOBAL {name[:100]}")
        if name == "_codecs.encode" and [a.value for a in arguments[1:]] != ["latin1"]:
            raise ValueError("GLOBAL _codecs.encode into another code than latin1")
        if name.startswith("torch._utils._rebuild_tensor"):
            storage, offset, sizes, strides = arguments[:4]
            pairs = [(n.value, s.value) for n, s in zip(sizes.value, strides.value, strict=True)]
            last = offset.value + sum((size - 1) * stride for size, stride in pairs)
            empty = any(size == 0 for size, _ in pairs)
            if storage.made != "storage" or not (empty or last < storage.value):
                raise ValueError(f"a tensor of {pairs[:8]} in a storage of {storage.value}")

    def _check_state(self, name: str) -> None:
        """A tensor's state would give it another size."""
        if name not in _IGNORED and name != "collections.OrderedDict":
            raise ValueError(f"GLOBAL {name[:100]} with a state")
