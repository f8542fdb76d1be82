"""What this machine has and how fast it draws votes: what ``dualsmooth doctor`` prints."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dualsmooth.engine.backends import OPENVINO, told
from dualsmooth.engine.errors import reason_of
from dualsmooth.engine.machine import installed_version, machine

if TYPE_CHECKING:
    from dualsmooth.engine.samplers.sampler import MakeSampler

PACKAGES = (
    *("dualsmooth", "torch", "triton", "numpy", "scipy"),
    *("cupy-cuda13x", "onnxruntime", "openvino", "matplotlib"),
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
DRIVER = Path("/proc/driver/nvidia/version")
SECONDS = 0.5
"""Time to measure each sampler for."""


def examine() -> Iterator[str]:
    """Yield lines, ready to paste: versions, processor, devices, votes per second, advice."""
    about = machine()
    yield "dualsmooth doctor"
    yield f"  python       {about['python']} on {about['system']}"
    for name in PACKAGES:
        yield f"  {name:<13}{installed_version(name) or 'not installed'}"
    found = " ".join(instruction_sets()) or "no vector extensions found"
    yield f"  processor    {about['processor']}, {about['cores']} cores"
    yield f"  instructions {found}"
    yield f"  loops        {_loops()}"
    yield f"  bf16 loops   {_bf16_loops()}"
    yield from (f"  {line}" for line in _cuda())
    yield from (f"  {line}" for line in _speeds())
    yield from (f"  {line}" for line in _automatic())
    yield from (f"  faster:      {line}" for line in advice())


def instruction_sets() -> list[str]:
    """Vector extensions of the processor that matter here, as Linux names them."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [name for name in INSTRUCTIONS if name in words]


def advice() -> list[str]:
    """What would make this machine faster; one line each."""
    import torch

    from dualsmooth.engine.samplers.fusion.bf16 import multiplies_bf16
    from dualsmooth.kernels.cpu import noise_votes

    lines = []
    if not noise_votes.available():
        lines.append("a C compiler at installation: noise and votes run in plain PyTorch now")
    if torch.cuda.is_available():
        if installed_version("triton") is None:
            lines.append("pip install triton: the fused kernels need it")
    else:
        if torch.version.cuda is None and DRIVER.exists():
            lines.append("PyTorch built for CUDA: this build is for the processor only")
        if torch.version.cuda is not None:
            lines.append("a CUDA device: PyTorch is built for one and finds none")
        if not multiplies_bf16():
            lines.append("a processor with AVX512-BF16 or AMX: bfloat16 would be native there")
    lines.append(
        "--budget decide, if a few radii are all you need; --reuse for votes already drawn"
    )
    return lines


def _loops() -> str:
    from dualsmooth.kernels.cpu import direct_conv, noise_votes

    if not noise_votes.available():
        return "not compiled"
    networks = {0: "PyTorch's", 8: "avx2", 16: "avx512"}[direct_conv.lanes()]
    return f"compiled; noise {noise_votes.best_version()}, convolutions {networks}"


def _bf16_loops() -> str:
    from dualsmooth.kernels.cpu import bf16_conv

    if why := bf16_conv.trouble():
        return f"not used: {why}"
    why = bf16_conv.trouble(tiled=True)
    return f"proved, by vdpbf16ps; {why}" if why else "proved, by vdpbf16ps and AMX"


def _cuda() -> Iterator[str]:
    import torch

    built = torch.version.cuda or "none"
    if not torch.cuda.is_available():
        yield f"cuda         no device; PyTorch built for {built}"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        memory = f"{about.total_memory / 2**30:.0f} GiB; PyTorch built for {built}"
        yield f"cuda:{index}       {about.name}, sm_{about.major}{about.minor}, {memory}"
    triton = installed_version("triton")
    usable = triton is not None and torch.cuda.is_available()
    state = "usable" if usable else "installed, no device to use it on" if triton else "not usable"
    yield f"triton       {state}"


def _speeds() -> Iterator[str]:
    """Votes per second of the bundled model's networks, for every sampler and precision."""
    import torch

    from dualsmooth.engine.samplers.cpu import CpuSampler
    from dualsmooth.engine.samplers.cuda import CudaSampler
    from dualsmooth.engine.samplers.eager import TorchSampler
    from dualsmooth.engine.samplers.fusion.bf16 import multiplies_bf16
    from dualsmooth.kernels.cpu import noise_votes

    kinds: dict[str, partial[Any]] = {"TorchSampler fp32": partial(TorchSampler, precision="fp32")}
    for precision in ("fp32", "bf16") if multiplies_bf16() else ("fp32",):
        if not noise_votes.available():
            break
        own = partial(CpuSampler, precision=precision)
        kinds[f"CpuSampler {precision}"] = own
        if installed_version(OPENVINO):
            kinds[f"CpuSampler {precision} {OPENVINO}"] = partial(own, backend=OPENVINO)
    if torch.cuda.is_available():
        for precision in ("fp32", "bf16"):
            kinds[f"CudaSampler {precision}"] = partial(CudaSampler, precision=precision)
    for kind, make in kinds.items():
        try:
            name, rate, tried = _rate(make)
        except Exception as error:  # a broken driver must not cost the rest of the lines
            yield f"votes/s      {kind} failed: {reason_of(error)}"
            continue
        precision = make.keywords["precision"]
        yield f"votes/s      {rate:>11,.0f}  {name}, {precision}, digits-dual classifier@0.25"
        yield from (f"             {line}" for line in tried)


def _automatic() -> Iterator[str]:
    """What ``auto`` stands for with the bundled model, and what it tried."""
    from dualsmooth.engine.models.sources.load import load_bundle
    from dualsmooth.engine.samplers.choose import resolve
    from dualsmooth.engine.settings import Settings

    found = resolve(Settings(), load_bundle("digits-dual"))
    yield f"auto         {found.device}, {found.backend}, {found.precision} for digits-dual"
    yield from (f"             {line}" for line in told(found.tried))


def _rate(make: "MakeSampler") -> tuple[str, float, list[str]]:
    """Name and votes per second of a sampler, and what ``auto`` tried for it."""
    import numpy as np

    from dualsmooth.engine.draws import Draw, Phase
    from dualsmooth.engine.models.sources.load import load_bundle
    from dualsmooth.engine.samplers.choose import resolve
    from dualsmooth.engine.samplers.sampler import Segment
    from dualsmooth.engine.settings import Settings

    bundle, role = load_bundle("digits-dual"), "classifier@0.25"
    batch = resolve(Settings(), bundle).padded_batch(bundle.input_shape)
    networks, outputs = {role: bundle.build(role)}, {role: bundle.outputs(role)}
    sampler = make(networks, outputs, bundle.input_shape, seed=0, batch_size=batch)
    try:
        sampler.load(0, np.full(bundle.input_shape, 0.5, np.float32))
        count = 4 * sampler.capacity
        segment = Segment.of(Draw(role, 0.25, Phase.CLASS_GUESS, 0, count), 0, 0, 0, count)
        sampler.count(role, [segment])
        start, votes = perf_counter(), 0
        while perf_counter() - start < SECONDS:
            votes += int(sampler.count(role, [segment]).sum())
        rate = votes / (perf_counter() - start)
        return sampler.name, rate, list(told(sampler.tried))
    finally:
        sampler.close()
