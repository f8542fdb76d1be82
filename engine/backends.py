"""What runs the networks on a device: its names, in settings and in certificates."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from dualsmooth.engine.errors import ArgumentError

AUTO = "auto"
LOOPS, OPENVINO, PICKED = "loops", "openvino", "picked"

BACKENDS = {
    "cuda": ("fused", "onchip", "triton", PICKED, "tiledstem", "stem", "cudnn", "compile", "eager"),
    "cpu": (LOOPS, OPENVINO),
}
"""Backends that each kind of device has beside ``auto``."""

AUTOMATIC = ("onchip", "triton", PICKED, "stem", "cudnn", "eager")
"""What ``auto`` chooses from on CUDA devices. Not compile: it takes minutes for a deep network, and
PyTorch's compiler may choose by timing, so another process could cast other votes. Not fused and
tiledstem before they have run on a device: a fault there would end a process that others serve."""

OF_NETWORKS = {"timm": "timm", "hf": "transformers", "onnx": "onnxruntime"}
"""Architectures whose code is another package's: a digest of weights does not cover it."""

_CHOICE = re.compile(rf"{PICKED}\.(tiledstem|stem|cudnn)(\.[a-z]{{1,999}})?")
"""What ``picked`` begins with, and the kernel of each kind of convolution: ``picked.stem.cpct``."""

Tried: TypeAlias = Mapping[str, float | str]
"""Backend -> seconds of a full batch, or why it was refused."""


def file_of_choices() -> str:
    """Where choices of ``auto`` are kept: in the cache folder of the user."""
    return f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/dualsmooth/backends.json"


def told(every: Mapping[str, Tried]) -> Iterator[str]:
    """What was tried, a line for each network and backend, the fastest first."""
    for model, tried in every.items():
        order = sorted(tried, key=lambda name: (isinstance(tried[name], str), str(tried[name])))
        for name in order:
            found = tried[name]
            line = (
                f"refused: {found}" if isinstance(found, str) else f"{1e3 * found:.3f} ms a batch"
            )
            yield f"{model}: {name} {line}"


def is_backend(name: str, kind: str) -> bool:
    """Whether a kind of device has this backend, or it is a choice within one of them."""
    return name in BACKENDS[kind] or (kind == "cuda" and bool(_CHOICE.fullmatch(name)))


def check_backend(text: str, device: str = AUTO) -> str:
    """The text, if it is ``auto`` or a backend of the device; ``auto`` lets the backends of all
    pass.

    On CUDA devices also ``network=backend`` pairs with commas between.
    """
    kinds = tuple(BACKENDS) if device == AUTO else (device,)
    pairs = [part.rpartition("=") for part in text.split(",")]
    of_each = all(equals and is_backend(backend, "cuda") for _, equals, backend in pairs)
    alone = text == AUTO or any(is_backend(text, kind) for kind in kinds)
    if alone or ("cuda" in kinds and of_each):
        return text
    known = [f"{', '.join(BACKENDS[kind])} on {kind}" for kind in kinds]
    others = [kind for kind in BACKENDS if kind not in kinds and is_backend(text, kind)]
    hint = f"use --device {others[0]}" if others else ""
    raise ArgumentError("backend", f"must be one of {AUTO}, {'; '.join(known)}", text, hint)


def backend_of_each(text: str, models: Sequence[str]) -> dict[str, str]:
    """Backend of a CUDA device, or ``auto``, of every network; none may be left out."""
    check_backend(text, "cuda")
    if "=" not in text:
        return dict.fromkeys(models, text)
    named = dict(part.split("=", 1) for part in text.split(","))
    if set(named) != set(models):
        raise ArgumentError("backend", f"must name {', '.join(models)}", text)
    return named


def sampler_name(chosen: Mapping[str, str]) -> str:
    """``cuda:BACKEND``, with the backend of each network where they differ."""
    if len(set(chosen.values())) == 1:
        return f"cuda:{next(iter(chosen.values()))}"
    return "cuda:" + ",".join(f"{model}={chosen[model]}" for model in sorted(chosen))


def recorded_backend(name: object) -> str:
    """The backend in a sampler's name; ``auto`` if it names none."""
    device, _, backend = str(name).partition(":")
    if name == "cpu":
        return LOOPS
    return check_backend(backend, device) if backend and device in BACKENDS else AUTO


def answers(recorded: str, asked: str) -> bool:
    """Whether recorded backends are those that were asked for, or choices within them."""
    ours, theirs = (
        {model: backend for model, _, backend in (p.rpartition("=") for p in text.split(","))}
        for text in (recorded, asked)
    )
    same = "" in ours or "" in theirs or set(ours) == set(theirs)
    return asked == AUTO or (
        same
        and all(
            f"{backend}.".startswith(f"{wanted}.")
            for model, backend in ours.items()
            for other, wanted in theirs.items()
            if "" in (model, other) or model == other
        )
    )


def libraries_of(name: object, manifest: object) -> tuple[str, ...]:
    """Packages whose versions decide the votes of a sampler of this name, on the networks of a
    bundle's manifest.
    """
    text = json.dumps(manifest)  # members of ensembles are named deep in it
    of_networks = [package for kind, package in OF_NETWORKS.items() if f'"{kind}"' in text]
    of_sampler = ["torch", OPENVINO] if recorded_backend(name) == OPENVINO else ["torch"]
    return *of_sampler, *of_networks
