"""Correctness on a device: kernels, samplers, tests and sanitizers; see `__main__.py`."""

import glob
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualsmooth.benchmarks.gpu import contest as gpu_contest
from dualsmooth.benchmarks.gpu import kernels as gpu_kernels
from dualsmooth.benchmarks.gpu.gate import CUDNN, KERNELS, ON_CHIP, CheckFailed
from dualsmooth.benchmarks.gpu.items import Item, Place, Turn, Unavailable
from dualsmooth.benchmarks.gpu.votes import Subject
from dualsmooth.engine.machine import installed_version
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion.triton import folded_resnet

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = (
    "/usr/local/cuda*/bin/compute-sanitizer",
    "/usr/local/cuda*/compute-sanitizer/compute-sanitizer",
    "/opt/nvidia/**/compute-sanitizer",
)
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
SIZES = "tests/kernels/test_real_sizes.py"
GATES = dict(
    zip(
        KERNELS, ("(words or noise)", "stem", "(conv and not cudnn)", "vote", "resnet"), strict=True
    )
) | {CUDNN: "cudnn", ON_CHIP: "on-chip"}
"""Item -> which tests of `SIZES` it runs."""

TAIL = 1500
"""Characters of a command's output that are kept."""


def cifar(blocks: int, place: Place, backends: tuple[str, ...]) -> Subject:
    """A CIFAR ResNet of depth 6 blocks + 2."""
    make = partial(create, f"cifar_resnet{6 * blocks + 2}", {})
    if place.tiny:
        make = partial(create, "cifar_resnet20", {})
        return Subject("tiny ResNet-20", make, 8, 32, 150, 60, backends)
    return Subject(f"ResNet-{6 * blocks + 2}", make, 32, backends=backends)


def machine(turn: Turn) -> dict[str, Any]:
    """What the pass runs on; clocks and power as they are, never changed."""
    place, packages = turn.place, ("torch", "triton", "numpy", "cupy-cuda13x", "onnxruntime")
    about: dict[str, Any] = {name: installed_version(name) for name in packages}
    about |= {"python": platform.python_version(), "cores": os.cpu_count()}
    if place.device.type == "cuda":
        found = torch.cuda.get_device_properties(place.device)
        about |= {
            "device": found.name,
            "sm": f"{found.major}{found.minor}",
            "memory": found.total_memory,
            "multiprocessors": found.multi_processor_count,
            "l2": getattr(found, "L2_cache_size", None),
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "cuda": torch.version.cuda,
            "nvidia-smi": _clocks(),
        }
    return about


def _clocks() -> str:
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    if shutil.which("nvidia-smi") is None:
        return "not there"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip()


def check_backend(subject: Subject, backend: str, turn: Turn) -> dict[str, object]:
    """Votes of one backend: repeated, in other orders and batches, with and without graphs."""
    place = turn.place
    network = subject.balanced(16 if place.tiny else 64)
    return gpu_contest.check(subject, network, backend, place.stream, place.plain_stream)


def command(arguments: Sequence[str], turn: Turn, **variables: str) -> dict[str, Any]:
    """Run a program in the repository; `CheckFailed` if it fails, `TimeoutError` if it is slow."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            arguments,
            cwd=ROOT,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=max(1.0, turn.left()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        turn.keep({"output": output.decode(errors="replace")[-TAIL:]})
        raise TimeoutError(f"no end in {time.monotonic() - start:.0f} s") from None
    result = {"rc": done.returncode, "output": done.stdout[-TAIL:]}
    if done.returncode:
        turn.keep(result)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        raise CheckFailed(f"exit code {done.returncode}: {last}")
    return result


def pytest(arguments: Sequence[str], turn: Turn) -> dict[str, Any]:
    """Tests on the device."""
    return command([*PYTEST, *arguments], turn)


def sanitize(tool: str, turn: Turn) -> dict[str, Any]:
    """The small checks under a tool of compute-sanitizer; every tensor has memory of its own."""
    found = [shutil.which("compute-sanitizer")] if shutil.which("compute-sanitizer") else []
    found += [path for pattern in SANITIZERS for path in glob.glob(pattern, recursive=True)]
    if not found or turn.place.device.type != "cuda":
        raise Unavailable("no compute-sanitizer here")
    tools = [str(found[0]), "--tool", tool, "--error-exitcode", "9"]
    tools += [*PYTEST, SIZES, "-k", "small"]
    return command(tools, turn, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def kernel_times(turn: Turn) -> dict[str, Any]:
    """Noise, stems, convolutions, votes and ResNet-110, per 100,000 draws."""
    device = turn.place.device
    network = folded_resnet(cifar(18, turn.place, ()).balanced(), torch.bfloat16, device)
    assert network is not None
    every = gpu_kernels.noise_and_stems(device) + gpu_kernels.layers(device, network)
    return dict(gpu_kernels.timed(every, 15))


def on_chip_times(turn: Turn) -> dict[str, Any]:
    """Networks with stages on chip and tiled stems, per 100,000 draws."""
    device = turn.place.device
    network = folded_resnet(cifar(18, turn.place, ()).balanced(), torch.bfloat16, device)
    assert network is not None
    return dict(gpu_kernels.timed(gpu_kernels.on_chip_kernels(device, network), 15))


def items(place: Place) -> list[Item]:
    """What takes longest first: all of it runs side by side, but for the times."""
    found = [Item("machine", machine, beside=True), *_programs(place)]
    sizes = ["-k", "small and "] if place.tiny else ["-m", "gpu", "-k", "not small and "]
    for name in GATES if place.device.type == "cuda" else KERNELS:
        chosen = [SIZES, *sizes[:-1], sizes[-1] + GATES[name]]
        found.append(Item(name, partial(pytest, chosen), limit=200, beside=True))
    networks = {
        3: ("triton", "cudnn", "onchip", "fused", "eager"),
        18: ("triton", "cudnn", "onchip", "fused"),
    }
    for blocks, backends in networks.items():
        subject = cifar(blocks, place, backends)
        for backend in ("triton", "eager") if place.tiny else backends:
            found.append(votes_item(f"ResNet-{6 * blocks + 2}", subject, backend))
    if not place.tiny:
        found.append(Item("on-chip times", on_chip_times, (ON_CHIP,), limit=40))
        found.append(Item("kernel times", kernel_times, KERNELS, limit=60))
    return found


def votes_item(label: str, subject: Subject, backend: str) -> Item:
    """The check of a backend: what it must pass before it is timed."""
    work = partial(check_backend, subject, backend)
    return Item(f"votes {label} {backend}", work, limit=150, beside=True)


def _programs(place: Place) -> list[Item]:
    """Sanitizers and tests."""
    tools = ("racecheck", "memcheck")
    found = [Item(f"sanitizer {t}", partial(sanitize, t), limit=220, beside=True) for t in tools]
    marked = ["-m", "gpu", "tests/engine/samplers", "tests/kernels", f"--ignore={SIZES}"]
    if place.tiny:
        marked = ["-m", "gpu", "tests/kernels/cuda/test_residual_stage.py"]
    found.append(Item("tests marked gpu", partial(pytest, marked), limit=220, beside=True))
    if not place.tiny:
        kernels = ["tests/kernels", "-m", "not slow and not gpu", "-n", "4"]
        kernels += ["--ignore=tests/kernels/cpu", "--ignore=tests/kernels/aot"]
        work = partial(pytest, kernels)
        found.append(Item("tests of the kernels", work, limit=220, beside=True))
    return found
