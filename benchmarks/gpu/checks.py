"""Correctness on a device: kernels, samplers, tests and sanitizers; see `__main__.py`."""

import glob
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualsmooth.benchmarks.gpu import contest as gpu_contest
from dualsmooth.benchmarks.gpu.gate import GATES, KERNELS, NEWEST, CheckFailed
from dualsmooth.benchmarks.gpu.items import Item, Place, Turn, Unavailable
from dualsmooth.benchmarks.gpu.votes import Subject
from dualsmooth.benchmarks.speed import networks as deep
from dualsmooth.engine.machine import installed_version
from dualsmooth.engine.models.registry import create

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = (
    "/usr/local/cuda*/bin/compute-sanitizer",
    "/usr/local/cuda*/compute-sanitizer/compute-sanitizer",
    "/opt/nvidia/**/compute-sanitizer",
)
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
SIZES = "tests/kernels/test_real_sizes.py"
KERNELS_TESTS = (
    *("tests/kernels", "-m", "not slow and not gpu"),
    *(f"--ignore=tests/kernels/{room}" for room in ("cpu", "cuda", "aot")),
)
"""Those of Triton's kernels; the others' run on processors."""

COMMANDS = {
    "fixed, integer noise": "certify digits-dual {few} --out {out} --noise integer",
    "decide": "certify digits-dual {few} --out {out} --budget decide --radii 0.25,0.5",
    "precise, two workers, audited": "certify digits-dual {few} --out {out} --budget precise"
    " --workers 2 && audit {out} --from-run --replay",
    "predict": "predict digits-dual --data digits --max 4",
    "train": "train gaussian --data digits --max 64 --out {out} --set schedule.epochs=1",
    "export": "export digits-dual --out {out} --check --images 8",
    "doctor": "doctor",
}
"""What a user types, one after the other where there is ``&&``."""
VOTES = {"ResNet-110": 100.0, "ResNet-50": 80.0}
"""Seconds of a check of votes, where 60 are too few: it took 65 on an H100, of ResNet-20 28; of
ResNet-50 the kernels of 17 kinds of convolutions are compiled."""

TAIL = 1500
"""Characters of a command's output that are kept."""


def cifar(blocks: int, place: Place, backends: tuple[str, ...]) -> Subject:
    """A CIFAR ResNet of depth 6 blocks + 2."""
    make = partial(create, f"cifar_resnet{6 * blocks + 2}", {})
    if place.tiny:
        make = partial(create, "cifar_resnet20", {})
        return Subject("tiny ResNet-20", make, 8, 32, 150, 60, backends)
    return Subject(f"ResNet-{6 * blocks + 2}", make, 32, backends=backends)


def resnet50(*backends: str) -> Subject:
    """ResNet-50 for 224 pixels."""
    return Subject("ResNet-50", deep.resnet50, 224, 512, 4000, 160, backends)


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
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return "no answer in 5 s"
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


def type_in(line: str, turn: Turn) -> dict[str, Any]:
    """A line of commands, on the device of the pass."""
    found, device = dict[str, Any](), turn.place.device.type
    with tempfile.TemporaryDirectory(prefix="device-pass-") as folder:
        few = f"--max 8 --n {500 if turn.place.tiny else 10_000}"
        for text in line.format(few=few, out=Path(folder) / "out").split(" && "):
            words = text.split()
            if words[0] in ("certify", "predict", "train"):
                words += ["--device", device]
            found[words[0]] = command([sys.executable, "-m", "dualsmooth", *words], turn)
            turn.keep(found)
    return found


def sanitize(tool: str, which: str, turn: Turn) -> dict[str, Any]:
    """The small checks under a tool of compute-sanitizer; every tensor has memory of its own."""
    found = [shutil.which("compute-sanitizer")] if shutil.which("compute-sanitizer") else []
    found += [path for pattern in SANITIZERS for path in glob.glob(pattern, recursive=True)]
    if not found or turn.place.device.type != "cuda":
        raise Unavailable("no compute-sanitizer here")
    tools = [str(found[0]), "--tool", tool, "--error-exitcode", "9"]
    tools += [*PYTEST, SIZES, "-k", f"small and {which}"]
    return command(tools, turn, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def items(place: Place) -> list[Item]:
    """The whole verdict: all of it runs side by side, the newest kernels first."""
    found = [Item("machine", machine, limit=10, beside=True), *_programs(place)]
    deep = cifar(18, place, ("fused", "onchip", "triton", "cudnn"))
    small = cifar(3, place, ("fused", "onchip", "triton", "picked", "cudnn", "eager"))
    if place.tiny:
        found += [*gates(place), *(votes_item("tiny", small, b) for b in ("triton", "eager"))]
        return [*found, *(_typed(name) for name in COMMANDS)]
    found += [votes_item("ResNet-110", deep, backend) for backend in deep.backends]
    found += gates(place, NEWEST | GATES)
    found.append(votes_item("ResNet-50", resnet50("picked"), "picked"))
    found += [votes_item("ResNet-20", small, backend) for backend in small.backends]
    return [*found, *(_typed(name) for name in COMMANDS)]


def _typed(name: str) -> Item:
    work = partial(type_in, COMMANDS[name])
    return Item(f"command line: {name}", work, limit=50, beside=True)


def gates(place: Place, which: Mapping[str, str] = GATES) -> list[Item]:
    """The tests that what is timed rests on."""
    sizes, found = ["-k", "small and "] if place.tiny else ["-m", "gpu", "-k", "real and "], []
    for name, tests in which.items():
        if place.device.type == "cuda" or name in KERNELS:
            chosen = [SIZES, *sizes[:-1], sizes[-1] + tests]
            found.append(Item(name, partial(pytest, chosen), limit=55, beside=True))
    return found


def votes_item(label: str, subject: Subject, backend: str) -> Item:
    """The check of a backend: what it must pass before it is timed."""
    work = partial(check_backend, subject, backend)
    return Item(f"votes {label} {backend}", work, limit=VOTES.get(label, 60), beside=True)


def _programs(place: Place) -> list[Item]:
    """Sanitizers and tests."""
    found = list[Item]()
    for which, tests in (("on chip", "on-chip"), ("Triton", "not on-chip")):
        for tool in ("racecheck", "memcheck"):
            work = partial(sanitize, tool, tests)
            found.append(Item(f"{tool} {which}", work, limit=110, beside=True))
    marked = ["-m", "gpu", "-n", "4", "tests/engine/samplers", "tests/kernels"]
    marked.append(f"--ignore={SIZES}")
    if place.tiny:
        marked = ["-m", "gpu", "tests/kernels/cuda/test_residual_stage.py"]
    found.append(Item("tests marked gpu", partial(pytest, marked), limit=110, beside=True))
    if not place.tiny:
        work = partial(pytest, [*KERNELS_TESTS, "-n", "4"])
        found.append(Item("tests of the kernels", work, limit=110, beside=True))
    return found
