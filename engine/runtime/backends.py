"""Names of the backends a CUDA sampler has, as users give them and runs record them."""

from collections.abc import Mapping, Sequence

from dualsmooth.engine.errors import ArgumentError

AUTO = "auto"
BACKENDS = ("cudnn", "triton", "compile", "eager")
AUTOMATIC = ("cudnn", "triton", "eager")
"""What ``auto`` chooses from. Not compile: it takes minutes for a deep network, and PyTorch's
compiler may choose by timing, so another process could cast other votes."""

PREFIX = "cuda:"


def check_backend(text: str) -> str:
    """The text, if it is ``auto``, a backend, or ``network=backend`` pairs with commas between.

    Raises
    ------
    ArgumentError
        If it names no backend.
    """
    if text != AUTO and any(part.rpartition("=")[2] not in BACKENDS for part in text.split(",")):
        raise ArgumentError("backend", f"must be one of {', '.join((AUTO, *BACKENDS))}", text)
    return text


def backend_of_each(text: str, models: Sequence[str]) -> dict[str, str]:
    """Backend, or ``auto``, of every network.

    Raises
    ------
    ArgumentError
        If the text names no backend, or leaves one of the networks out.
    """
    check_backend(text)
    if "=" not in text:
        return dict.fromkeys(models, text)
    named = dict(part.split("=", 1) for part in text.split(","))
    if set(named) != set(models):
        raise ArgumentError("backend", f"must name {', '.join(models)}", text)
    return named


def sampler_name(chosen: Mapping[str, str]) -> str:
    """``cuda:BACKEND``, with the backend of each network where they differ."""
    if len(set(chosen.values())) == 1:
        return PREFIX + next(iter(chosen.values()))
    return PREFIX + ",".join(f"{model}={chosen[model]}" for model in sorted(chosen))


def recorded_backend(name: object) -> str:
    """The backend in a sampler's name; ``auto`` if it was no CUDA sampler's."""
    text = str(name)
    return check_backend(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else AUTO
