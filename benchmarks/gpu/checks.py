"""Correctness on a device: kernels, samplers, tests and sanitizers; see `gpu.py`."""

import glob
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualsmooth.benchmarks.gpu import contest as gpu_contest
from dualsmooth.benchmarks.gpu import kernels as gpu_kernels
from dualsmooth.benchmarks.gpu.items import Item, Place, Turn, Unavailable
from dualsmooth.benchmarks.gpu.kernel_check_list import REAL, SMALL, kernel_checks, library_checks
from dualsmooth.benchmarks.gpu.kernel_checks import CheckFailed
from dualsmooth.benchmarks.gpu.votes import Subject
from dualsmooth.engine.machine import installed_version
from dualsmooth.engine.models.registry import create

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = (
    "/usr/local/cuda*/bin/compute-sanitizer",
    "/usr/local/cuda*/compute-sanitizer/compute-sanitizer",
    "/opt/nvidia/**/compute-sanitizer",
)
TAIL = 1500
"""Characters of a command's output that are kept."""


def cifar(blocks: int, place: Place, backends: tuple[str, ...]) -> Subject:
    """A CIFAR ResNet of depth 6 blocks + 2."""
    make = partial(create, f"cifar_resnet{6 * blocks + 2}", {})
    if place.tiny:
        return Subject("tiny ResNet-20", partial(create, "cifar_resnet20", {}), 8, 32, 150, 60,
                       backends)  # fmt: skip
    return Subject(f"ResNet-{6 * blocks + 2}", make, 32, backends=backends)


def machine(turn: Turn) -> dict[str, Any]:
    """What the pass runs on; clocks and power as they are, never changed."""
    place, packages = turn.place, ("torch", "triton", "numpy", "cupy-cuda13x", "onnxruntime")
    about: dict[str, Any] = {name: installed_version(name) for name in packages}
    about |= {"python": platform.python_version(), "cores": os.cpu_count()}
    if place.device.type == "cuda":
        found = torch.cuda.get_device_properties(place.device)
        about |= {
            "device": found.name, "sm": f"{found.major}{found.minor}", "memory": found.total_memory,
            "multiprocessors": found.multi_processor_count,
            "l2": getattr(found, "L2_cache_size", None), "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "cuda": torch.version.cuda, "nvidia-smi": _clocks(),
        }  # fmt: skip
    return about


def _clocks() -> str:
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    if shutil.which("nvidia-smi") is None:
        return "not there"
    done = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True,
                          text=True, timeout=20, check=False)  # fmt: skip
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
            arguments, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=max(1.0, turn.left()), check=False,
        )  # fmt: skip
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
    return command([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
                   turn)  # fmt: skip


def sanitize(tool: str, turn: Turn) -> dict[str, Any]:
    """The small checks under a tool of compute-sanitizer; every tensor has memory of its own."""
    found = [shutil.which("compute-sanitizer")] if shutil.which("compute-sanitizer") else []
    found += [path for pattern in SANITIZERS for path in glob.glob(pattern, recursive=True)]
    if not found or turn.place.device.type != "cuda":
        raise Unavailable("no compute-sanitizer here")
    program = [sys.executable, "-m", "dualsmooth.benchmarks.gpu.kernels", "--small"]
    tools = [str(found[0]), "--tool", tool, "--error-exitcode", "9"]
    own = str(turn.place.work / f"sanitized-{tool}")
    return command([*tools, *program], turn, PYTORCH_NO_CUDA_MEMORY_CACHING="1", OUT=own)


def kernel_times(turn: Turn) -> dict[str, Any]:
    """Noise, stems, convolutions, votes and ResNet-110, per 100,000 draws."""
    device = turn.place.device
    every = gpu_kernels.noise_and_stems(device) + gpu_kernels.layers(device)
    return dict(gpu_kernels.timed(every, 15))


def items(place: Place) -> list[Item]:
    """The machine, kernels, samplers, tests, sanitizers."""
    sizes = SMALL if place.tiny else REAL
    dtype = torch.bfloat16 if place.device.type == "cuda" else torch.float32
    checks: dict[str, Callable[[], Any]] = kernel_checks(place.device, sizes, dtype)
    names = tuple(f"kernel {name}" for name in checks)
    found = [Item("machine", machine)]
    every = dict(checks)
    if place.device.type == "cuda":
        every |= library_checks(place.device, sizes, dtype)
    found += [Item(f"kernel {name}", partial(_run, check)) for name, check in every.items()]
    networks = {3: ("cudnn", "triton", "eager"), 18: ("cudnn", "triton")}
    for blocks, backends in networks.items():
        subject = cifar(blocks, place, backends)
        for backend in backends if not place.tiny else backends[:2]:
            name = f"votes ResNet-{6 * blocks + 2} {backend}"
            found.append(Item(name, partial(check_backend, subject, backend), limit=90))
    return found + _programs(place, names)


def _programs(place: Place, checks: tuple[str, ...]) -> list[Item]:
    """Tests and sanitizers; times of the kernels, which rest on their checks."""
    marked = ["-m", "gpu", "tests/engine/samplers", "tests/kernels"]
    if place.tiny:
        marked = ["-m", "gpu", "tests/kernels/cuda/test_residual_stage.py"]
    found = [Item("tests marked gpu", partial(pytest, marked), limit=150)]
    kernels = ["tests/kernels", "-m", "not slow", "-n", "6", "--ignore=tests/kernels/cpu",
               "--ignore=tests/kernels/aot/test_main.py"]  # fmt: skip
    if not place.tiny:
        found.append(Item("kernel times", kernel_times, checks, limit=60))
        found.append(Item("tests of the kernels", partial(pytest, kernels), limit=200))
    tools = ("memcheck", "racecheck")
    return found + [Item(f"sanitizer {t}", partial(sanitize, t), limit=100) for t in tools]


def _run(check: Callable[[], Any], turn: Turn) -> Any:
    return check()
