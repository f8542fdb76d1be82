"""Checkpoints of Cohen et al.'s training code: `arch` and `state_dict` in a torch file.

They are read with ``weights_only=True``, so no code from the file runs.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.models.sources.torch_file import load_torch_file
from dualsmooth.engine.records import sha256_of

ARCHITECTURES = ("cifar_resnet20", "cifar_resnet56", "cifar_resnet110")
INPUT_SHAPE = (32, 32, 3)
_WRAPPERS = ("module.", "1.")
_NORMALIZER = "0."


def read_checkpoint(path: Path) -> Bundle:
    """A bundle of the one classifier a checkpoint holds, for any noise level.

    Names may carry the prefixes `module.` (DataParallel) and `1.` (behind a normalizing layer,
    whose own entries `0.*` are dropped: mean and std are CIFAR-10's).

    Raises
    ------
    FileError
        If the file is not such a checkpoint or its tensors do not fit its architecture.
    """
    checkpoint = load_torch_file(path)
    architecture, state = checkpoint.get("arch"), checkpoint.get("state_dict")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise FileError(path, "arch must be a known architecture", repr(architecture), known)
    if not isinstance(state, Mapping):
        raise FileError(path, "state_dict must be a mapping", type(state).__name__)
    tensors = {}
    for key, value in state.items():
        name = _plain_name(str(key))
        if not name or name.endswith("num_batches_tracked"):
            continue
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or name in tensors:
            raise FileError(path, f"tensor {key} must be one float32 tensor", type(value).__name__)
        tensors[name] = np.ascontiguousarray(value.numpy())
    weights = save(tensors)
    classes = len(tensors.get("fc.bias", ()))
    if classes < 1:
        raise FileError(path, "must have the tensor fc.bias", "a state_dict without it")
    kwargs = {"num_classes": classes}
    network = Network(architecture, kwargs, sha256_of(weights), weights, str(path))
    network.build()
    return Bundle(path.name, INPUT_SHAPE, classes, (), None, {CLASSIFIER: network})


def _plain_name(name: str) -> str:
    """The name in the bare network; empty for an entry of the normalizing layer."""
    while name.startswith(_WRAPPERS):
        name = name.removeprefix("module.").removeprefix("1.")
    return "" if name.startswith(_NORMALIZER) else name
