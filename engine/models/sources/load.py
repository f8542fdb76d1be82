"""Where bundles come from: one function for every kind of source."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dualsmooth.engine.checks import did_you_mean
from dualsmooth.engine.data.kinds import told_apart
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import at_home
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.printable import printable
from dualsmooth.engine.terminal.progress import step

PRETRAINED = Path(__file__).parents[1] / "pretrained"
TIMM, HF = "timm:", "hf:"
_CHECKPOINTS = (".pth.tar", ".pth", ".pt", ".ckpt")
EXPORTED = (".onnx", ".pt2")
"""Files of classifiers exported elsewhere: `dualsmooth.engine.models.sources.exported`."""

_TAKES = {
    ".onnx": "an .onnx file",
    ".pt2": "a program of torch.export",
    ".safetensors": "weights in safetensors",
}


def load_bundle(
    source: str | Path,
    *,
    trust: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Bundle:
    """Load a bundle.

    Parameters
    ----------
    source : str or Path
        A bundle folder, the name of a bundled one (`digits-dual`), a checkpoint of a ResNet
        (`*.pth.tar`, `*.pth`, `*.pt`, `*.ckpt`; `sources.checkpoint`), an exported classifier
        (`*.onnx`, `*.pt2`), a network of timm with weights on this machine (`timm:NAME`,
        `timm:NAME:FILE`), or a classifier of transformers in a folder or the local cache
        (`hf:FOLDER`, `hf:NAME`).
    trust : bool
        Let PyTorch load a `.pt2` that is refused otherwise. The file can then run any code.
    mean, std : sequence of float, optional
        By which pixels in [0, 1] are normalized in front of the network, one number or one per
        channel: for checkpoints without their own, networks of timm or transformers, and exported
        classifiers.

    Raises
    ------
    ArgumentError
        If the source is none of these.
    FileError
        If a file is missing, damaged, tampered with or not what it claims to be.
    """
    if not isinstance(source, str | Path):
        raise ArgumentError("bundle", "must be a name or a path", type(source).__name__)
    text, place = str(source), str(source).rpartition(":")[2]
    inside = text in bundled_names() and at_home(text).is_dir()
    known: dict[str, Any] = {"bundle": f"./{text}" if inside else text}
    known |= {k: list(v) for k, v in (("mean", mean), ("std", std)) if v is not None}
    takes = _TAKES.get(Path(place).suffix.lower(), "a file of torch.save")
    told = told_apart(place, "a bundle folder", takes, models=True)
    with step(f"reading {printable(source)}"), told:
        return _load(source, trust, mean, std).read_from(known)


def _load(
    source: str | Path, trust: bool, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Bundle:
    from dualsmooth.engine.models.sources.folder import read_bundle

    path = at_home(source, "bundle")
    if path.is_dir() or str(source) in bundled_names():
        if (mean, std) != (None, None):
            rule, hint = "must be left out", "the networks of a bundle normalize their input"
            raise ArgumentError("std" if mean is None else "mean", rule, mean or std, hint)
        return read_bundle(path if path.is_dir() else PRETRAINED / str(source))
    if str(source).startswith(TIMM):
        from dualsmooth.engine.models.sources.timm import read_timm

        return read_timm(str(source).removeprefix(TIMM), mean, std)
    if str(source).startswith(HF):
        from dualsmooth.engine.models.sources.hf import read_hf

        return read_hf(str(source).removeprefix(HF), mean, std)
    if str(source).lower().endswith(_CHECKPOINTS):
        from dualsmooth.engine.models.sources.checkpoint import read_checkpoint

        return read_checkpoint(path, mean, std)
    if str(source).lower().endswith(EXPORTED):
        from dualsmooth.engine.models.sources.exported import read_exported

        return read_exported(path, trust=trust, mean=mean, std=std)
    files = ", ".join(_CHECKPOINTS + EXPORTED)
    rule = f"must be a folder, a file ({files}), timm:NAME, hf:NAME or a bundled name"
    hint = did_you_mean(str(source), bundled_names()) or "bundled: " + ", ".join(bundled_names())
    if str(source).endswith(".safetensors"):
        hint = f"weights alone: timm:NAME:{source}, or hf:FOLDER for a model of transformers"
    raise ArgumentError("bundle", rule, str(source), hint)


def bundled_names() -> tuple[str, ...]:
    """Names of the bundles that come with the package."""
    return tuple(sorted(path.parent.name for path in PRETRAINED.glob("*/bundle.json")))


def place_of(architectures: Iterable[str], device: str, precision: str) -> tuple[str, str]:
    """Device and precision for networks: exported classifiers run on the CPU in float32."""
    if not any(f".{architecture}" in EXPORTED for architecture in architectures):
        return device, precision
    for name, asked, only in (("device", device, "cpu"), ("precision", precision, "fp32")):
        if asked not in ("auto", only):
            raise ArgumentError(name, f"must be {only} for {', '.join(EXPORTED)} files", asked)
    return "cpu", "fp32"
