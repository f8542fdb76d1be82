"""Networks of timm, with weights from a local file: nothing is ever downloaded (extra ``timm``)."""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.files import at_home
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.registry import register_architecture
from dualsmooth.engine.models.sources.constants import spread
from dualsmooth.engine.models.sources.tensors import named_tensors, needed, normalized, rebuilt
from dualsmooth.engine.records import sha256_of


@register_architecture("timm")
def timm_network(
    name: str, num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """A network of timm behind its mean and std in [0, 1] pixel units, with fresh weights.

    The name is an architecture such as ``resnet18``; no tag, no hub and no folder.
    """
    network = needed("timm", "timm").create_model(
        _known(name), pretrained=False, num_classes=num_classes, in_chans=len(mean)
    )
    return normalized(network, mean, std)


def read_timm(
    source: str, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Bundle:
    """A bundle of the classifier ``NAME[:FILE]`` for any noise level.

    ``FILE`` holds the weights (``*.safetensors``, or a torch file read with
    ``weights_only=True``); without one they must be in the local Hugging Face cache. Input size,
    mean and std are those of timm's configuration of NAME; mean and std may be given, and must be
    if NAME has no tag and its published weights want different ones. Where these want images made
    in different ways, nothing is said of how to make them.
    """
    name, _, file = source.partition(":")
    architecture, timm = _known(name.partition(".")[0]), needed("timm", "timm")
    try:
        settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise ArgumentError("bundle", "must name weights timm knows", name, str(error)) from error
    others = _published(architecture) if file and name == architecture else {}
    if mean is None or std is None:
        _check_one_scale(architecture, settings, others)
    path = at_home(file) if file else _cached(f"timm:{source}", settings)
    state = named_tensors(path)
    classes = _classes(settings, state)
    overlay = {"state_dict": state, "num_classes": classes, "custom_load": False, "label_offset": 0}
    try:
        network = timm.create_model(
            name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, KeyError, ValueError, AttributeError) as error:  # timm's key filters
        first = reason_of(error)
        raise FileError(path, f"must hold the tensors of timm's {name}", first) from error
    _check_all_used(path, state, network.state_dict())
    channels, height, width = settings.input_size
    mean = spread("mean", settings.mean if mean is None else mean, channels)
    std = spread("std", settings.std if std is None else std, channels)
    scale = {"mean": list(mean), "std": list(std)}
    kwargs: Any = {"name": architecture, "num_classes": classes, **scale}
    given = normalized(network, mean, std)
    rule = f"must be what timm makes of {architecture} without weights"  # some have settings
    found = rebuilt(path, given, settings.input_size, "timm", kwargs, rule)
    shape, made = (height, width, channels), _preparation(settings)
    if any(_preparation(other) != made for other in others.values()):
        made = None
    return Bundle(f"timm-{name}", shape, classes, (), None, {CLASSIFIER: found}, made)


def _published(architecture: str) -> dict[str, Any]:
    """Configurations of the weights that timm has of an architecture, by tag."""
    timm = needed("timm", "timm")
    names = timm.list_pretrained(f"{architecture}.*")
    read = partial(timm.get_pretrained_cfg, allow_unregistered=False)
    return {name.partition(".")[2]: read(name) for name in names}


def _check_one_scale(architecture: str, settings: Any, others: Mapping[str, Any]) -> None:
    """Refuse to guess by which mean and std a file's network is normalized."""
    for tag, other in others.items():
        if (other.mean, other.std) != (settings.mean, settings.std):
            rule = "must say which weights these are, NAME.TAG, or be given --mean and --std"
            received = f"{architecture}, whose {tag} has mean {other.mean}"
            hint = f"{settings.mean} and {settings.std} are timm's for {architecture}"
            raise ArgumentError("bundle", rule, received, hint)


def _preparation(settings: Any) -> dict[str, Any] | None:
    """How timm makes images for a network at evaluation, if it resizes and cuts out the middle."""
    _, height, width = settings.input_size
    if settings.crop_mode != "center" or height != width:
        return None
    size = int(height / settings.crop_pct)
    return {"resize": [size], "crop": height, "interpolation": settings.interpolation}


def _known(name: str) -> str:
    """The name, if it is a plain one: `create_model` would fetch from hubs and folders too."""
    timm = needed("timm", "timm")
    if not (name.isidentifier() and timm.is_model(name)):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"near: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise ArgumentError("bundle", "must name a network of timm", name, hint)
    return name


def _cached(source: str, settings: Any) -> Path:
    """File of the published weights in the local Hugging Face cache."""
    names = (settings.hf_hub_filename or "model.safetensors", "pytorch_model.bin")
    for name in names if settings.hf_hub_id else ():
        path = needed("huggingface_hub", "timm").try_to_load_from_cache(settings.hf_hub_id, name)
        if isinstance(path, str):
            return Path(path)
    hint = f"{source}:FILE names a file; timm.create_model(NAME, pretrained=True) downloads once"
    raise ArgumentError("bundle", "must have its weights on this machine", source, hint)


def _check_all_used(
    path: Path, state: Mapping[str, torch.Tensor], built: Mapping[str, torch.Tensor]
) -> None:
    """Refuse a file with tensors that timm left out, cut or resampled; new names are no matter."""
    kept = {_digest(tensor) for tensor in built.values()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and _digest(tensor) not in kept:
            hint = "load it with timm yourself and save the network's own state_dict"
            raise FileError(path, "must hold no tensor that timm drops or changes", name, hint)


def _digest(tensor: torch.Tensor) -> str:
    return sha256_of(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _classes(settings: Any, state: Mapping[str, torch.Tensor]) -> int:
    """Classes of the file where its last layer has the configured name, else those configured."""
    layers = settings.classifier
    layer = layers if isinstance(layers, str) or not layers else layers[0]
    weight = state.get(f"{layer}.weight")
    return int(settings.num_classes if weight is None else weight.shape[0])
