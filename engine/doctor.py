"""What this machine has and how fast it draws votes: what ``dualsmooth doctor`` prints."""

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from time import perf_counter

PACKAGES = ("dualsmooth", "torch", "triton", "numpy", "scipy", "cupy-cuda13x", "onnxruntime")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def examine() -> Iterator[str]:
    """Yield lines: versions, processor, devices, measured draws per second."""
    yield f"python      {platform.python_version()} on {platform.platform()}"
    for name in PACKAGES:
        yield f"{name:<12}{_version(name)}"
    found = _instructions()
    yield f"processor   {os.cpu_count()} cores; {' '.join(found) or 'no vector extensions found'}"
    yield from _devices()
    yield from _speeds()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _instructions() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [name for name in INSTRUCTIONS if name in words]


def _devices() -> Iterator[str]:
    import torch

    if not torch.cuda.is_available():
        yield "cuda        no device"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index}      {torch.cuda.get_device_name(index)}"


def _speeds() -> Iterator[str]:
    """Votes per second of the bundled model's networks, over about a second each."""
    import numpy as np

    from dualsmooth.engine.draws import Draw, Phase
    from dualsmooth.engine.methods.dual import DualSmoothing
    from dualsmooth.engine.models.bundle import load_bundle
    from dualsmooth.engine.runtime.segments import Segment
    from dualsmooth.engine.runtime.session import Session
    from dualsmooth.engine.settings import Settings

    method = DualSmoothing(load_bundle("digits-dual"))
    with Session(method, Settings()) as session:
        sampler = session.sampler
        sampler.load(0, np.full(session.shape, 0.5, np.float32))
        for role in method.roles:
            draw = Draw(role, 0.25, Phase.CLASS_GUESS, 0, 4 * sampler.capacity)
            segment = Segment.of(draw, 0, 0, 0, draw.count)
            sampler.count(role, [segment])
            start, votes = perf_counter(), 0
            while perf_counter() - start < 1.0:
                votes += int(sampler.count(role, [segment]).sum())
            rate = votes / (perf_counter() - start)
            yield f"speed       {rate:,.0f} votes/s, digits-dual {role}, sampler {sampler.name}"
