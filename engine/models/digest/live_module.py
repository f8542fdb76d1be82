"""Modules that users hold: a bundle certifies what a module was when the bundle was made."""

import copy
from collections.abc import Set
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.models.digest.exported import Exported
from dualsmooth.engine.models.digest.module_digest import ModuleDigest
from dualsmooth.engine.models.digest.module_state import DRAWN, unwrapped
from dualsmooth.engine.models.digest.python_names import stable_name
from dualsmooth.engine.records import sha256_of

_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
_CODES: WeakKeyDictionary[nn.Module, Set[CodeType]] = WeakKeyDictionary()


def digested_copy(module: nn.Module) -> tuple[str, str, str, nn.Module]:
    """Name, digest, what the digest leaves out (named), and a copy that nobody else can change."""
    module = unwrapped(module)
    check_whole(module, "module")
    found = _digest(module)
    copied = _copy(module, found)
    if copied is module or _digest(copied).sha256 != found.sha256:
        place = "module" if copied is module else _where_they_differ(module, copied)
        hint = (
            f"{place} is another in copy.deepcopy(module): make a hook or closure that holds it a "
            "method of the module, and other things plain values"
        )
        if type(module).__getstate__ is not nn.Module.__getstate__:  # Lightning's, once fitted
            hint = "its __getstate__ leaves out what it holds; certify copy.deepcopy(module)"
        if hasattr(module, "_orig_mod"):
            hint = "certify the module that was given to torch.compile: its backend is another's"
        rule = "must be a network of its own, as a copy of it is"
        raise ArgumentError("module", rule, type(module).__name__, hint)
    kind, opaque = type(module), next(iter(found.opaque), "")
    if not opaque:
        _CODES[copied] = found.codes
    return stable_name(kind.__module__, kind.__qualname__), found.sha256, opaque, copied


class _Noted(ModuleDigest):
    """Notes what it is taken over, and where that is."""

    def __init__(self, module: nn.Module) -> None:
        self.notes, self._path = list[tuple[str, str]](), "module"
        super().__init__(module)

    def _visit(self, value: Any, path: str) -> None:
        self._path = path
        super()._visit(value, path)

    def _put(self, *words: object) -> None:
        texts = (sha256_of(word) if isinstance(word, bytes) else str(word) for word in words)
        self.notes.append((self._path, " ".join(texts)))


def _where_they_differ(module: nn.Module, copied: nn.Module) -> str:
    pairs = zip(_Noted(module).notes, _Noted(copied).notes, strict=False)
    return next((own[0] for own, other in pairs if own[1] != other[1]), "module")


def covered_code(weights: object) -> Set[CodeType] | None:
    """Code that the digest of a network is about; None where it says that it leaves some out.

    A file is weights and, as a program, operators of libraries: no code.
    """
    if isinstance(weights, bytes | Exported):
        return frozenset()
    return _CODES.get(weights) if isinstance(weights, nn.Module) else None


def build_copy(module: nn.Module, architecture: str, digest: object) -> nn.Module:
    """A fresh copy of what `digested_copy` kept under a digest: float32, on the CPU."""
    if type(module) is Exported:  # a function of a file, which the digest is of
        return copy.deepcopy(module)
    found = _digest(module)
    if found.sha256 != digest:
        raise ArgumentError(
            "module",
            "must be what it was when its bundle was made",
            architecture,
            "a global, a closure, a class or a hook has changed; make the bundle again",
        )
    # Not module.float(): a method that a class overrides may do anything, or return nothing.
    copied: nn.Module = nn.Module.float(nn.Module.cpu(_copy(module, found)))
    return copied


def check_equal(module: nn.Module, built: nn.Module, architecture: str) -> None:
    """Refuse a module that is not what its architecture builds, whatever their tensors are."""
    given = _copy(module, _digest(module))
    built.load_state_dict(given.state_dict(), strict=False, assign=True)
    digests = {_digest(part.requires_grad_(False)).sha256 for part in (given, built)}
    if len(digests) != 1:
        raise ArgumentError(
            "module",
            f"must be what {architecture} builds from these kwargs",
            f"{type(module).__name__} with something of its own",
            "hooks, attributes and patches are not saved; leave out the architecture",
        )


def _digest(module: nn.Module) -> ModuleDigest:
    """What a module is; of one whose objects are nested without end, that nothing covers it."""
    try:
        return ModuleDigest(module)
    except RecursionError:
        found = ModuleDigest(type(module).__qualname__)
        found.opaque.append(f"{type(module).__name__}, whose objects are nested without end")
        return found


def check_whole(module: nn.Module, argument: str) -> None:
    """Refuse a module that is spread over processes, or lacks weights, before it runs."""
    rule = "must have all its weights"
    for part in module.modules():
        if _SHARDED & {kind.__name__ for kind in type(part).__mro__}:
            hint = "load a full state_dict, as of get_model_state_dict, into a module without FSDP"
            raise ArgumentError(argument, rule, f"{type(part).__name__}, a share of them", hint)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(tensor, UninitializedTensorMixin):
            hint = "lazy layers need one pass over a batch of images"
            raise ArgumentError(argument, rule, f"{name} without values", hint)
        if tensor.is_meta:
            hint = "load them: load_state_dict(state, assign=True)"
            raise ArgumentError(argument, rule, f"{name} on the meta device", hint)
        if tensor.dtype == torch.float64 and not torch.equal(tensor.float().double(), tensor):
            rule = "must hold what float32 can hold"
            hint = "certify module.float(), another network"
            raise ArgumentError(argument, rule, f"{name} of float64", hint)


def _copy(module: nn.Module, found: ModuleDigest) -> Any:
    """A deep copy with what `copy.deepcopy` refuses or forgets: results, and notes on tensors."""
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in found.tensors if not t.is_leaf}
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:  # objects refuse in many ways
        received = "; ".join([*found.opaque[:1], reason_of(error)])
        hint = "leave the object out of it, or give it __deepcopy__"
        raise ArgumentError("module", "must be copyable", received, hint) from error
    for part, twin in zip(module.modules(), copied.modules(), strict=False):
        if "training" in vars(part):  # which einops' layers forget
            vars(twin)["training"] = part.training
        if isinstance(part, fx.GraphModule):  # its copies leave out what the graph does not name
            for name, value in vars(part).items():
                if name.startswith("_forward_") or name not in vars(twin):  # hooks are there, empty
                    vars(twin)[name] = value if name in DRAWN else copy.deepcopy(value, memo)
        pairs = zip(part.parameters(False), twin.parameters(False), strict=False)
        for own, other in pairs:
            vars(other).update(copy.deepcopy(vars(own), memo))
    for part in list(copied.modules()):
        for name, child in list(part.named_children()):
            if (inner := unwrapped(child)) is not child:
                part._modules[name] = inner
    return copied
