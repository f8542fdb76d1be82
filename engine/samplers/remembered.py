"""The backends that ``auto`` chose before, by network, device and versions.

A memory spares the trial of every backend at the next start. It is a hint: what it names passes the
checks of any named backend, and is chosen anew where it fails. A file that cannot be read or
written costs nothing else.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from dualsmooth.engine.backends import (
    AUTO,
    AUTOMATIC,
    Tried,
    backend_of_each,
    file_of_choices,
    is_backend,
)
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.files import at_home, write_json
from dualsmooth.engine.json_file import read_json
from dualsmooth.engine.machine import installed_version, machine
from dualsmooth.engine.records import digest_of

if TYPE_CHECKING:
    from dualsmooth.engine.samplers.cuda import CudaSampler

VERSIONS = ("dualsmooth", "torch", "triton", "cupy-cuda13x")
MOST = 1000
"""Choices a file keeps; the oldest go first."""


def choose_once(
    make: "Callable[..., CudaSampler]",
    networks: Mapping[str, torch.nn.Module],
    backend: str,
    about: Mapping[str, Any],
) -> "CudaSampler":
    """``make(backend=..)``, with the backends chosen before where ``auto`` is asked for.

    ``about`` is what speed and agreement depend on beside networks, device and versions.
    """
    if set(backend_of_each(backend, list(networks)).values()) != {AUTO}:
        return make(backend=backend)
    kept = read_tried()
    keys = {model: _key(network, about) for model, network in networks.items()}
    if sampler := _again(make, {model: kept.get(key) for model, key in keys.items()}):
        return sampler
    sampler = make(backend=AUTO)
    keep_tried(kept, {keys[model]: tried for model, tried in sampler.tried.items()})
    return sampler


def keep_tried(kept: Mapping[str, Tried], fresh: Mapping[str, Tried]) -> None:
    """Add what was tried now, by key, to what was read."""
    every = {key: dict(tried) for key, tried in [*kept.items(), *fresh.items()]}
    path = at_home(file_of_choices())
    try:
        if fresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, dict(list(every.items())[-MOST:]))
    except (OSError, FileError):  # a memory that cannot be kept is made again
        pass


def _again(
    make: "Callable[..., CudaSampler]", kept: Mapping[str, Tried | None]
) -> "CudaSampler | None":
    """The sampler of what was chosen before; None where something is new, or fails today."""
    best: dict[str, str] = {}
    for model, tried in kept.items():
        times = {name: t for name, t in (tried or {}).items() if isinstance(t, float)}
        if not times or not all(is_backend(name, "cuda") for name in times):
            return None
        best[model] = min(times, key=times.__getitem__)
    try:
        sampler = make(backend=",".join(f"{model}={name}" for model, name in best.items()))
    except Exception:  # whatever it is, the backends are tried anew and say it themselves
        return None
    sampler.tried = {model: tried for model, tried in kept.items() if tried}
    return sampler


def read_tried() -> dict[str, Tried]:
    """What was tried before, by key; nothing where the file is not there or not ours."""
    try:
        found = read_json(at_home(file_of_choices()))
    except FileError:
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {key: tried for key, tried in entries if isinstance(tried, dict)}


def _key(network: torch.nn.Module, about: Mapping[str, Any]) -> str:
    state = hashlib.sha256(repr(network).encode())
    for name, value in network.state_dict().items():
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    versions = {package: installed_version(package) for package in VERSIONS}
    facts = {"network": state.hexdigest(), "versions": versions, "devices": machine()["devices"]}
    return digest_of(facts | {"candidates": list(AUTOMATIC)} | dict(about))
