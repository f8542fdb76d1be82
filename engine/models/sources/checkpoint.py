"""Checkpoints of ResNets: those of Cohen et al.'s training code and of what came after it.

Salman et al. (SmoothAdv), Jeong and Shin (consistency), Jeong et al. (SmoothMix) keep its layout,
`arch` and `state_dict`; MACER has `net` and nothing that normalizes, torchvision the tensors alone.
pytorch-cifar (kuangliu) has `net`, too, and calls two parts of its ResNets by other names.
Files are read with ``weights_only=True``, so no code from them runs. Every tensor of the network is
used, or the file is refused by the name of the one that is not.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.architectures.deep_resnet import DEPTHS
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.constants import (
    CIFAR10,
    IMAGENET,
    NONE,
    OF_IMAGENET,
    constants,
    of_normalizer,
    own_constants,
    same,
)
from dualsmooth.engine.models.sources.torch_file import float_weights, load_torch_file
from dualsmooth.engine.records import sha256_of

_HEAD, _LINEAR = _HEADS = ("fc.bias", "linear.bias")
ARCHITECTURES: dict[str, tuple[tuple[int, ...], bool, str]] = {
    f"cifar_resnet{6 * blocks + 2}": ((blocks,) * 3, False, _HEAD) for blocks in (3, 9, 18)
}
ARCHITECTURES |= {f"resnet{d}": (blocks, d >= 50, _HEAD) for d, blocks in DEPTHS.items()}
ARCHITECTURES |= {f"cifar_resnet{d}": (blocks, d >= 50, _LINEAR) for d, blocks in DEPTHS.items()}
"""Blocks per stage, whether they have three convolutions, and what the last tensor is called."""
OTHERS = (
    "another network: timm:NAME:FILE if timm has it, else the module in Python, "
    "ds.certify(network, images, sigma=..), or export it to .onnx or .pt2"
)
_WRAPPERS = re.compile(r"((module|_orig_mod|1|model|net|network)\.)*")
_REWRITTEN = re.compile(r"parametrizations\.|\.weight_(?:g|v|orig|u)$")


def read_checkpoint(
    path: Path, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Bundle:
    """A bundle of the one classifier a checkpoint holds, for any noise level.

    Names may carry the prefixes `module.` (DataParallel), `_orig_mod.` (torch.compile) and `1.`
    (behind a normalizing layer). Mean and std are those of the file: of its normalizing layer
    (`0.means`, `normalize.std` and the like) or entries `mean` and `std`. Where it has none, they
    are those given, else CIFAR-10's or ImageNet's, and 0 and 1 in MACER's layout. Only batch norm's
    ``num_batches_tracked`` is not read: no vote depends on it.
    """
    checkpoint = load_torch_file(path)
    entry, state = _state(path, checkpoint)
    prefix, head = _prefix(path, state)
    names = [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
    architecture = _architecture(path, checkpoint, names, head)
    classes = len(float_weights(path, head, state[prefix + head]).reshape(-1))
    with torch.device("meta"):
        expected = create(architecture, {"num_classes": classes}).state_dict()
    called = {name: name for name in expected}
    if head == _LINEAR:
        called = {
            re.sub(r"^fc\b", "linear", n.replace("downsample", "shortcut")): n for n in called
        }
    tensors, others = {}, {}
    for key, value in state.items():
        name = called.get(key.removeprefix(prefix) if key.startswith(prefix) else "", "")
        if not name:
            others[key] = value
        elif not name.endswith("num_batches_tracked"):
            tensors[name] = _weights(path, key, value, expected[name])
    weights = save(tensors)
    own = own_constants(path, prefix, others, checkpoint if entry else {})
    usual = IMAGENET if not architecture.startswith("cifar") else CIFAR10
    alone = {"model", "net", "network"} & {*prefix.split(".")}
    # Cohen et al.'s code names the architecture, or has a layer 0 in front that keeps no tensors.
    theirs = "arch" in checkpoint or "1" in prefix.split(".") or entry == "net"
    theirs &= head == _HEAD
    if (alone or (usual is CIFAR10 and not theirs)) and not own and None in (mean, std):
        rule = "must have mean and std beside its network, or be given them"
        hint = "--mean and --std, in Python mean= and std=; 0 and 1 for pixels as they are"
        raise FileError(path, rule, f"tensors {prefix}* alone", hint)
    unlike = NONE if (entry, prefix) == ("net", "") and "arch" not in checkpoint else usual
    found = constants(path, own, (mean, std), unlike)
    kwargs = {"num_classes": classes, **({} if same(found, usual) else found)}
    network = Network(architecture, kwargs, sha256_of(weights), weights, str(path))
    network.build()
    shape, made = ((32, 32, 3), {}) if usual is CIFAR10 else ((224, 224, 3), OF_IMAGENET)
    return Bundle(path.name, shape, classes, (), None, {CLASSIFIER: network}, made)


def _architecture(
    path: Path, checkpoint: Mapping[object, object], names: Collection[str], head: str
) -> str:
    """The architecture a file names, or the one that has blocks as its tensors do."""
    if "arch" in checkpoint:
        named = checkpoint["arch"]
        if isinstance(named, str) and named in ARCHITECTURES and ARCHITECTURES[named][2] == head:
            return named
        received = named if isinstance(named, str) else type(named).__name__
        known = ", ".join(name for name, form in ARCHITECTURES.items() if form[2] == head)
        raise FileError(path, "arch must be a known architecture", repr(received[:80]), known)
    blocks = {re.match(r"layer(\d)\.(\d+)\.", name) for name in names}
    stages = [match[1] for match in {m[0]: m for m in blocks if m}.values()]
    counts = tuple(stages.count(str(stage)) for stage in range(1, 1 + len({*stages})))
    deep = any(".conv3." in name for name in names)
    for name, form in ARCHITECTURES.items():
        if form == (counts, deep, head):
            return name
    known = f"{', '.join(ARCHITECTURES)}; {OTHERS}"
    received = f"blocks {counts}" if counts else f"tensors {', '.join(list(names)[:3])}"
    raise FileError(path, "must hold a known architecture", received, known)


def _state(path: Path, checkpoint: Mapping[object, object]) -> tuple[str, dict[str, object]]:
    """The tensors of the one network in a file, and what their entry is called; "" without one."""
    found = {
        str(key): state
        for key, state in checkpoint.items()
        if isinstance(state, Mapping) and any(str(name).endswith(_HEADS) for name in state)
    }
    bare = not found and any(str(name).endswith(_HEADS) for name in checkpoint)
    for key, value in checkpoint.items():
        several = isinstance(value, torch.Tensor | Mapping | list | tuple) and not bare
        if several and key not in ("mean", "std") and of_normalizer(str(key)):
            raise FileError(path, "must call them mean and std beside the state_dict", key)
    if len(found) > 1:
        rule, hint = "must hold one network", "remove those you do not mean"
        raise FileError(path, rule, ", ".join(sorted(found))[:200], hint)
    only = "", checkpoint if bare else checkpoint.get("state_dict")
    entry, state = next(iter(found.items()), only)
    if state is None:
        parts = (part for part in checkpoint.values() if isinstance(part, Mapping) and part)
        received = _names(next(parts, checkpoint))
        raise FileError(path, f"must be a ResNet with the tensor {_HEAD}", received, OTHERS)
    if not isinstance(state, Mapping):
        raise FileError(path, "state_dict must be a mapping", type(state).__name__)
    for key in state:
        if not isinstance(key, str):
            raise FileError(path, "names of tensors must be texts", type(key).__name__)
        if _REWRITTEN.search(key):
            hint = "remove weight norm and parametrizations before saving"
            raise FileError(path, "must hold the weights themselves", key, hint)
    return entry, dict(state)


def _prefix(path: Path, state: Mapping[str, object]) -> tuple[str, str]:
    """What stands before the network's own names, and the name of its last tensor."""
    pairs = [
        (key.removesuffix(head), head) for key in state for head in _HEADS if key.endswith(head)
    ]
    found = [(prefix, head) for prefix, head in pairs if _WRAPPERS.fullmatch(prefix)]
    if not found:
        raise FileError(path, f"must be a ResNet with the tensor {_HEAD}", _names(state), OTHERS)
    if len(found) > 1:
        raise FileError(path, "must hold one network", ", ".join(map("".join, found))[:200])
    return found[0]


def _names(state: Mapping[Any, object]) -> str:
    return ", ".join(map(str, list(state)[:3])) + (", .." if len(state) > 3 else "")


def _weights(path: Path, key: str, value: object, expected: torch.Tensor) -> Any:
    if isinstance(value, torch.Tensor) and value.shape != expected.shape:
        rule = f"tensor {key} must have shape {tuple(expected.shape)}"
        raise FileError(path, rule, tuple(value.shape))
    found = float_weights(path, key, value).numpy()
    if key.endswith("running_var") and not (found >= 0).all():
        raise FileError(path, f"tensor {key} must not be negative", found.min())
    return np.ascontiguousarray(found)
