"""Image classifiers of transformers, from a local folder or the local cache (extra ``hf``).

Nothing is downloaded and no code of a model's repository runs: `config.json`,
`preprocessor_config.json` and the weights are read here, and transformers gets plain values.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.files import at_home
from dualsmooth.engine.json_file import read_json
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.capture import quiet
from dualsmooth.engine.models.registry import register_architecture
from dualsmooth.engine.models.sources.constants import spread
from dualsmooth.engine.models.sources.hf_images import read_processor
from dualsmooth.engine.models.sources.tensors import named_tensors, needed, normalized, rebuilt

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
_ELSEWHERE = re.compile(r"auto_map|quantization_config|use_kernels|(use_\w+_)?backbone(_\w+)?")
"""Keys by which a configuration makes transformers fetch weights or code."""
_IDLE = re.compile("_.*|architectures|(torch_)?dtype|transformers_version|id2label|label2id")
"""Keys no logit depends on: attention is always computed as written down (eager)."""
_COUNTS, _MOST_LAYERS = re.compile("layers|depth|blocks|repeats"), 256


class Logits(nn.Module):
    """The logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(pixel_values=x).logits
        return logits


@register_architecture("hf")
def hf_network(config: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """A network of transformers behind its mean and std in [0, 1] pixel units, fresh weights."""
    return normalized(Logits(_fresh(config)), mean, std)


def read_hf(
    name: str, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Bundle:
    """A bundle of the classifier in a folder, or of that name in the local Hugging Face cache.

    Image size, mean and std are those of the model's image processor; mean and std may be given.
    """
    folder = at_home(name)
    files = folder.__truediv__ if folder.is_dir() else lambda file: _cached(name, file)
    path = files(CONFIG)
    weights = next((p for p in map(files, WEIGHTS) if p is not None and p.exists()), None)
    if path is None or weights is None:
        hint = "hf:FOLDER names a folder; transformers' from_pretrained(NAME) downloads once"
        rule = f"must name a folder or cached model with {CONFIG} and {' or '.join(WEIGHTS)}"
        raise ArgumentError("bundle", rule, f"hf:{name}", hint)
    read = read_json(path)
    if not isinstance(read, dict):
        raise FileError(path, "must be the configuration of a model", type(read).__name__)
    about = read_processor(files("preprocessor_config.json"), str(read.get("model_type")))
    about.check_order(path)
    labels, config = _labels(path, read), {k: v for k, v in read.items() if not _IDLE.fullmatch(k)}
    config["num_labels"] = len(labels)
    if isinstance(_classes_of(read.get("model_type")), tuple):  # one of several has these weights
        config["architectures"] = read.get("architectures")
    channels = config.get("num_channels", 3)
    shape = (*(about.size or _image_size(path, config)), channels)
    scale = {
        "mean": list(spread("mean", about.mean(path) if mean is None else mean, channels)),
        "std": list(spread("std", about.std(path) if std is None else std, channels)),
    }
    given = normalized(Logits(_loaded(weights, config)), **scale)
    kwargs, rule = {"config": config, **scale}, f"must be a classifier of images {shape}"
    found = rebuilt(path, given, (channels, *shape[:2]), "hf", kwargs, rule)
    classes = () if all(map(re.compile(r"LABEL_\d+").fullmatch, labels)) else labels
    called = f"hf-{Path(name).resolve().name if folder.is_dir() else name.rpartition('/')[2]}"
    networks = {CLASSIFIER: found}
    return Bundle(
        called, shape, len(labels), (), None, networks, about.preparation, classes=classes
    )


def _fresh(config: Mapping[str, Any]) -> Any:
    """A network of a configuration; `ArgumentError` if it is none of transformers' own."""
    transformers = needed("transformers", "hf")
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    if _classes_of(kind) is None:
        hint = "timm:NAME reads networks of timm" if kind == "timm_wrapper" else ""
        rule = "must be of a kind that transformers classifies images with"
        raise ArgumentError("model_type", rule, kind, hint)
    for key, value in _entries(config):
        if _ELSEWHERE.fullmatch(key) and value not in (None, False):
            raise ArgumentError("config", "must name no code or weights elsewhere", key)
        counts = value if isinstance(value, list) else [value]
        if _COUNTS.search(key) and {*map(type, counts)} == {int} and sum(counts) > _MOST_LAYERS:
            raise ArgumentError("config", f"must have at most {_MOST_LAYERS} layers", f"{key} more")
    values = {k: v for k, v in config.items() if k != "model_type" and not _IDLE.fullmatch(k)}
    values["architectures"] = [*map(str, config.get("architectures") or ())]
    try:
        made = transformers.AutoConfig.for_model(kind, **values)
        auto_class = transformers.AutoModelForImageClassification
        return auto_class.from_config(made, attn_implementation="eager")
    except Exception as error:  # transformers checks values by many kinds of errors
        first = reason_of(error)
        raise ArgumentError("config", f"must be one of a {kind}", first) from error


def _classes_of(kind: object) -> Any:
    """Name of the class that classifies images by models of this type, several names, or None."""
    auto = needed("transformers.models.auto.modeling_auto", "hf")
    names = {**auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, "timm_wrapper": None}
    return names.get(kind) if isinstance(kind, str) else None


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield str(key), value
        if isinstance(value, Mapping):
            yield from _entries(value)


def _loaded(path: Path, config: Mapping[str, Any]) -> nn.Module:
    """The network with the tensors of a file, under the names transformers has for them."""
    state = named_tensors(path)
    with torch.device("meta"):  # a network of any size, without its memory
        fresh = _fresh(config)
    wanted, held = (sum(t.numel() for t in ts) for ts in (fresh.parameters(), state.values()))
    if wanted > 2 * held:
        rule = f"must hold the tensors of {CONFIG}'s model"
        raise FileError(path, rule, f"{held:,} numbers for {wanted:,}")
    how: dict[str, Any] = {"config": fresh.config, "state_dict": state, "dtype": torch.float32}
    how |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet():
            network, seen = type(fresh).from_pretrained(None, attn_implementation="eager", **how)
    except Exception as error:
        first = reason_of(error)
        raise FileError(path, f"must hold the tensors of {CONFIG}'s model", first) from error
    wrong = [f"{k.partition('_')[0]} {min(map(str, v))}" for k, v in sorted(seen.items()) if v]
    if wrong:
        raise FileError(path, f"must hold the tensors of {CONFIG}'s model, no others", wrong[0])
    loaded: nn.Module = network
    return loaded


def _labels(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes in order; LABEL_0, .. where the model has a number of them alone."""
    named = config.get("id2label") or {}
    count = config.get("num_labels", 2)
    if not named and type(count) is int and 0 < count < 1 << 20:
        return tuple(f"LABEL_{i}" for i in range(count))
    numbers = [str(i) for i in range(len(named))]
    if not isinstance(named, dict) or {*map(str, named)} != {*numbers}:
        raise FileError(path, "id2label must name the classes 0, 1, ..", str(named)[:100])
    return tuple(str(named[number]) for number in numbers)


def _image_size(path: Path, config: Mapping[str, Any]) -> tuple[int, int]:
    size = config.get("image_size")
    sides: list[Any] = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or {*map(type, sides)} != {int}:
        raise FileError(path, "must say image_size, or its image processor a size", str(size))
    return sides[0], sides[1]


def _cached(name: str, file: str) -> Path | None:
    """A file of a model in the local cache; None if it is not there."""
    hub = needed("huggingface_hub", "hf")
    try:
        path = hub.try_to_load_from_cache(name, file)
    except ValueError as error:  # no name of a model
        raise ArgumentError("bundle", "must name a model", name, str(error)) from error
    return Path(path) if isinstance(path, str) else None
