"""Mean and standard deviation by which the pixels of a checkpoint's network are normalized."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.architectures.deep_resnet import IMAGENET_MEAN, IMAGENET_STD
from dualsmooth.engine.models.architectures.resnet import CIFAR10_MEAN, CIFAR10_STD
from dualsmooth.engine.models.sources.torch_file import float_weights

Constants = dict[str, Sequence[float]]
"""`mean` and `std`, one number per channel."""

CIFAR10: Constants = {"mean": CIFAR10_MEAN, "std": CIFAR10_STD}
IMAGENET: Constants = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
OF_IMAGENET: dict[str, Any] = {"resize": [256], "crop": 224, "interpolation": "bilinear"}
"""How ImageNet's images are made for ResNets of 224 pixels."""

NONE: Constants = {"mean": (0.0,) * 3, "std": (1.0,) * 3}

_NORMALIZER = re.compile(
    r"((?:(?:module|_orig_mod|0|normali[sz]e|normali[sz]e_layer|normali[sz]er|normali[sz]ation"
    r"|norm_layer|norm)\.)*)_?(?:(means?|mu)|(stds?|sds?|sigma))"
)


def of_normalizer(name: str) -> bool:
    """Whether a name is that of a normalizing layer or of its mean or std."""
    return any(_NORMALIZER.fullmatch(f"{name}{end}") for end in ("", ".mean"))


def own_constants(
    path: Path, prefix: str, others: Mapping[str, object], beside: Mapping[Any, object]
) -> Constants:
    """Mean and std of the layer in front of the network, or entries beside it, if a file has them.

    ``others`` are the tensors that are not the network's; one that is neither is refused.
    """
    found: Constants = {}
    fronts, parts = set(), prefix.split(".")
    for key, value in others.items():
        plain = key.removeprefix(prefix) if prefix and key.startswith(prefix) else key
        match = _NORMALIZER.fullmatch(plain)
        # Index 0 stands in front of index 1, and nothing else does.
        if (
            match is None
            or ("0" in match[1].split(".")) != ("1" in parts)
            or (plain is not key and "1" in parts)
        ):
            raise FileError(path, "must have no other tensors", key)
        _add(path, found, key, "mean" if match[2] else "std", value)
        fronts.add(match[1])
    for name in {"mean", "std"} & beside.keys():
        value = beside[name]
        numbers = isinstance(value, list | tuple) and {*map(type, value)} <= {int, float}
        tensor = torch.tensor(value, dtype=torch.float32) if numbers else value
        _add(path, found, name, name, tensor)
    if found and (len(found) < 2 or len(fronts) > 1):
        received = ", ".join([*others, *found])[:200]
        raise FileError(path, "must have one mean and one std", received)
    return found


def _add(path: Path, found: Constants, key: str, which: str, value: object) -> None:
    values = float_weights(path, key, value).flatten().tolist()
    fits = len(values) in (1, 3) and all(v <= 1 if which == "mean" else v > 0 for v in values)
    if not fits or which in found:
        rule = f"tensor {key} must be the one {which} of three channels, in [0, 1] pixel units"
        raise FileError(path, rule, values[:4])
    found[which] = values * (3 // len(values))


def constants(
    path: Path, own: Constants, given: tuple[Sequence[float] | None, ...], usual: Constants
) -> Constants:
    """Those of the file, else those given, else the usual ones."""
    found = dict(own)
    for name, values in zip(("mean", "std"), given, strict=True):
        if values is not None and own:
            rule, hint = f"must be left out: {path} has its own", "it is used"
            raise ArgumentError(name, rule, list(values), hint)
        found.setdefault(name, list(usual[name] if values is None else spread(name, values, 3)))
    return found


def spread(name: str, values: Sequence[float], channels: int) -> Sequence[float]:
    """A mean or std given as one number, or as one per channel, in [0, 1] pixel units."""
    fits = all(-1 <= v <= 1 if name == "mean" else 0 < v <= 10 for v in values)
    if len(values) not in (1, channels) or not fits:
        rule = "must be in [-1, 1]" if name == "mean" else "must be above 0, at most 10"
        hint = "in [0, 1] pixel units; divide those of 0 .. 255 by 255"
        rule = f"{rule}, one number or one for each of the {channels} channels"
        raise ArgumentError(name, rule, list(values), hint)
    return values if len(values) == channels else [values[0]] * channels


def same(one: Constants, other: Constants) -> bool:
    """Whether two are equal as the network holds them, in float32."""
    return all(np.array_equal(np.array(one[k], "f4"), np.array(other[k], "f4")) for k in one)
