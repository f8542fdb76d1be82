"""Checkpoints of Cohen et al.'s training code: `arch` and `state_dict` in a torch file.

They are read with ``weights_only=True``, so no code from the file runs. Every tensor of the network
is used, or the file is refused by the name of the one that is not.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.architectures.resnet import CIFAR10_MEAN, CIFAR10_STD
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.torch_file import float_weights, load_torch_file
from dualsmooth.engine.records import sha256_of

ARCHITECTURES = ("cifar_resnet20", "cifar_resnet56", "cifar_resnet110")
INPUT_SHAPE = (32, 32, 3)
_HEAD = "fc.bias"
_WRAPPERS = re.compile(r"((module|_orig_mod|1|model|net|network)\.)*")
_NORMALIZER = re.compile(
    r"((?:(?:module|_orig_mod|0|normali[sz]e|normali[sz]e_layer|normali[sz]er|normali[sz]ation"
    r"|norm_layer|norm)\.)*)_?(?:(means?|mu)|(stds?|sds?|sigma))"
)
_REWRITTEN = re.compile(r"parametrizations\.|\.weight_(?:g|v|orig|u)$")


def read_checkpoint(path: Path) -> Bundle:
    """A bundle of the one classifier a checkpoint holds, for any noise level.

    Names may carry the prefixes `module.` (DataParallel), `_orig_mod.` (torch.compile) and `1.`
    (behind a normalizing layer). Mean and std are those of the file's normalizing layer (`0.means`,
    `normalize.std` and the like), or CIFAR-10's where it has no tensors for them. Only batch norm's
    ``num_batches_tracked`` is not read: no vote depends on it.
    """
    checkpoint = load_torch_file(path)
    architecture = checkpoint.get("arch")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        received = architecture if isinstance(architecture, str) else type(architecture).__name__
        known = ", ".join(ARCHITECTURES)
        raise FileError(path, "arch must be a known architecture", repr(received[:80]), known)
    state = _state(path, checkpoint)
    prefix = _prefix(path, state)
    classes = len(float_weights(path, _HEAD, state[prefix + _HEAD]).reshape(-1))
    with torch.device("meta"):
        expected = create(architecture, {"num_classes": classes}).state_dict()
    tensors, others = {}, {}
    for key, value in state.items():
        name = key.removeprefix(prefix) if key.startswith(prefix) else ""
        if name not in expected:
            others[key] = value
        elif not name.endswith("num_batches_tracked"):
            tensors[name] = _weights(path, key, value, expected[name])
    weights = save(tensors)
    kwargs = {"num_classes": classes, **_normalizing(path, prefix, others)}
    network = Network(architecture, kwargs, sha256_of(weights), weights, str(path))
    network.build()
    return Bundle(path.name, INPUT_SHAPE, classes, (), None, {CLASSIFIER: network})


def _state(path: Path, checkpoint: Mapping[object, object]) -> dict[str, object]:
    """The tensors of the one network in a file, whatever the entry is called."""
    for key, value in checkpoint.items():
        several = isinstance(value, torch.Tensor | Mapping | list | tuple)
        if several and any(_NORMALIZER.fullmatch(f"{key}{end}") for end in ("", ".mean")):
            raise FileError(path, "must hold mean and std in the state_dict", f"{key} beside it")
    found = {
        str(key): state
        for key, state in checkpoint.items()
        if isinstance(state, Mapping) and any(str(name).endswith(_HEAD) for name in state)
    }
    if len(found) > 1:
        rule, hint = "must hold one network", "remove those you do not mean"
        raise FileError(path, rule, ", ".join(sorted(found))[:200], hint)
    state = next(iter(found.values()), checkpoint.get("state_dict"))
    if not isinstance(state, Mapping):
        raise FileError(path, "state_dict must be a mapping", type(state).__name__)
    for key in state:
        if not isinstance(key, str):
            raise FileError(path, "names of tensors must be texts", type(key).__name__)
        if _REWRITTEN.search(key):
            hint = "remove weight norm and parametrizations before saving"
            raise FileError(path, "must hold the weights themselves", key, hint)
    return dict(state)


def _prefix(path: Path, state: Mapping[str, object]) -> str:
    """What stands before the network's own names."""
    found = [key.removesuffix(_HEAD) for key in state if key.endswith(_HEAD)]
    found = [prefix for prefix in found if _WRAPPERS.fullmatch(prefix)]
    if not found:
        raise FileError(path, f"must have the tensor {_HEAD}", "a state_dict without it")
    if len(found) > 1:
        raise FileError(path, "must hold one network", ", ".join(p + _HEAD for p in found)[:200])
    return found[0]


def _weights(path: Path, key: str, value: object, expected: torch.Tensor) -> Any:
    if isinstance(value, torch.Tensor) and value.shape != expected.shape:
        rule = f"tensor {key} must have shape {tuple(expected.shape)}"
        raise FileError(path, rule, tuple(value.shape))
    found = float_weights(path, key, value).numpy()
    if key.endswith("running_var") and not (found >= 0).all():
        raise FileError(path, f"tensor {key} must not be negative", found.min())
    return np.ascontiguousarray(found)


def _normalizing(path: Path, prefix: str, others: Mapping[str, object]) -> dict[str, object]:
    """Mean and std of the layer in front of the network, if the file has them."""
    found: dict[str, list[float]] = {}
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
        values = float_weights(path, key, value).flatten().tolist()
        which = "mean" if match[2] else "std"
        fits = len(values) in (1, 3) and all(v <= 1 if which == "mean" else v > 0 for v in values)
        if not fits or which in found:
            rule = f"tensor {key} must be the one {which} of three channels, in [0, 1] pixel units"
            raise FileError(path, rule, values[:4])
        found[which] = values * (3 // len(values))
        fronts.add(match[1])
    if found and (len(found) < 2 or len(fronts) > 1):
        raise FileError(path, "must have one mean and one std", ", ".join(others)[:200])
    if not found and {"model", "net", "network"} & set(parts):
        raise FileError(path, "must have mean and std beside its network", f"{prefix}* alone")
    cifar10 = {"mean": CIFAR10_MEAN, "std": CIFAR10_STD}
    same = all(np.array_equal(np.array(found[k], "f4"), np.array(cifar10[k], "f4")) for k in found)
    return {} if same else dict(found)
