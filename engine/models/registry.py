"""Architectures by name, so that a bundle file can say how to build its networks."""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from dualsmooth.engine.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    Constructor = TypeVar("Constructor", bound=Callable[..., nn.Module])

_CONSTRUCTORS: dict[str, "Callable[..., nn.Module]"] = {}
_BUILT_IN = tuple(
    f"dualsmooth.engine.models.{name}"
    for name in (
        "architectures.deep_resnet",
        "architectures.ordered",
        "architectures.resnet",
        "architectures.small",
        "denoised",
        "ensemble",
        "int8",
        "sources.hf",
        "sources.timm",
    )
)


def register_architecture(name: str) -> "Callable[[Constructor], Constructor]":
    """Decorator that makes a constructor known under a name.

    The constructor takes keyword arguments that JSON can hold and returns a network from images
    (n, channels, height, width) with pixels in [0, 1] to logits (n, outputs). Digests are of name,
    arguments and weights: give other code another name.
    """
    if name in _CONSTRUCTORS:
        raise ArgumentError("name", "must be a new architecture name", name)

    def register(constructor: "Constructor") -> "Constructor":
        _CONSTRUCTORS[name] = constructor
        return constructor

    return register


def known_architectures() -> tuple[str, ...]:
    """Names that `create` knows, sorted."""
    for module in _BUILT_IN:
        import_module(module)
    return tuple(sorted(_CONSTRUCTORS))


def packages() -> set[str]:
    """Whose code the names of architectures stand for, or runs networks of files."""
    known = {made.__module__.partition(".")[0] for made in _CONSTRUCTORS.values()}
    return known | {"timm", "onnxruntime"}


def create(name: str, kwargs: Mapping[str, object]) -> "nn.Module":
    """Build an architecture with fresh weights."""
    known = known_architectures()
    if name not in _CONSTRUCTORS:
        raise ArgumentError("architecture", "must be a known name", name, ", ".join(known))
    constructor = _CONSTRUCTORS[name]
    signature = inspect.signature(constructor)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        rule = f"must fit {name}{signature}"
        raise ArgumentError("kwargs", rule, dict(kwargs), str(error)) from error
    return constructor(**kwargs)


def create_part(argument: str, part: object) -> "nn.Module":
    """Build a part of a larger network from ``{"architecture": NAME, "kwargs": {...}}``."""
    fields = part if isinstance(part, Mapping) else {}
    name, kwargs = fields.get("architecture"), fields.get("kwargs")
    if len(fields) != 2 or not isinstance(name, str) or not isinstance(kwargs, Mapping):
        raise ArgumentError(argument, "must hold architecture and kwargs", part)
    return create(name, kwargs)
