"""The machine a run was made on: for the record, and to tell whether votes must be equal."""

import ctypes
import hashlib
import os
import platform
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dualsmooth import kernels
from dualsmooth.kernels.cpu.compiled import compiled

PACKAGES = ("dualsmooth", "torch", "numpy", "scipy")
FURTHER = ("openvino", "timm", "transformers", "onnxruntime")
"""Packages that votes may depend on, where they are installed."""

TESTED_TORCH = (2, 14)
"""Newest PyTorch that the suite has run with; `requirements/constraints.txt` may name an older."""

SWITCHES = (
    "ATEN_CPU_CAPABILITY DNNL_DEFAULT_FPMATH_MODE DNNL_MAX_CPU_ISA MKL_CBWR "
    "MKL_ENABLE_INSTRUCTIONS NPY_DISABLE_CPU_FEATURES NPY_ENABLE_CPU_FEATURES "
    "NVIDIA_TF32_OVERRIDE ONEDNN_DEFAULT_FPMATH_MODE ONEDNN_MAX_CPU_ISA "
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
).split()
"""Variables by which users choose other instructions, hence other last bits."""

LOOPS = (
    *("direct_conv", "direct_conv_avx2", "winograd_conv", "winograd_conv_avx2"),
    *("int8_conv", "bf16_conv"),
)
"""Compiled loops that sum in an order of their own, beside those for noise and votes."""


PROCESS_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def machine() -> dict[str, Any]:
    """Versions and hardware."""
    versions = {name: installed_version(name) for name in PACKAGES}
    further = {name: found for name in FURTHER if (found := installed_version(name))}
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instructions": _instructions(),
        "devices": _devices(),
        "cores": os.cpu_count(),
        "versions": versions | further,
    }


def arithmetic(about: Mapping[str, Any], libraries: Sequence[str], device: str) -> dict[str, Any]:
    """What a `machine`, here or when a run began, says of the last bits of a result on a kind of
    device.
    """
    versions, devices = about.get("versions"), about.get("devices")
    facts: dict[str, Any] = {"instructions": about.get("instructions")}
    if device == "cuda":
        facts["device"] = devices[0] if isinstance(devices, list) and devices else None
    else:
        facts["processor"] = about.get("processor")
    known = versions if isinstance(versions, dict) else {}
    return facts | {library: known.get(library) for library in libraries}


def _instructions() -> str:
    """Digest of the processor's flags, whether bfloat16 loops were built for them, 3 being those of
    AMX, other loops that were not built although some were, and every switch that is set.
    """
    flags = _cpuinfo("flags") or _cpuinfo("Features")
    digest = hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16]
    loops = compiled("bf16_conv")
    kind = loops.dualsmooth_bf16_conv_available() if loops else 0
    switches = [f"{s}={os.environ[s]}" for s in SWITCHES if os.environ.get(s)]
    missing = [f"no_{name}" for name in LOOPS if compiled("noise_votes") and not compiled(name)]
    return " ".join([digest, *([f"bf16_loops={kind}"] if kind else []), *missing, *switches])


def code_digest() -> str:
    """Digest of the sources of engine and kernels as they are on this machine's disk now, and of
    the compiled loops, which may have been built from others.
    """
    digest = hashlib.sha256()
    for top in (Path(__file__).parent, *map(Path, kernels.__path__)):
        files = (file for kind in ("py", "c", "h", "cu") for file in top.rglob(f"*.{kind}"))
        for name, file in sorted((file.relative_to(top).as_posix(), file) for file in files):
            digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    for library in filter(None, map(compiled, ("noise_votes", *LOOPS))):
        digest.update(Path(library._name).read_bytes())
    return digest.hexdigest()[:16]


def _cpuinfo(field: str) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(found, "")


def _devices() -> list[str]:
    """Names of CUDA devices, if torch has been imported; a run log alone does not need it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def available_cores() -> int:
    """Cores this process may use: those it is bound to, but no more than its control groups give
    time for, or SLURM counted out without binding.
    """
    bound = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        bound = len(os.sched_getaffinity(0))
    task = "SLURM_CPUS_PER_TASK" if "SLURM_STEP_ID" in os.environ else "SLURM_CPUS_ON_NODE"
    counted = os.environ.get(task, "")
    return max(1, min(bound, *_shares(), int(counted) if counted.isdecimal() else bound))


def _shares() -> Iterator[int]:
    """Cores for which the control groups of this process, of either version, give time."""
    groups = PROCESS_GROUPS.read_text().splitlines() if PROCESS_GROUPS.exists() else []
    for _, kinds, place in (line.split(":", 2) for line in groups):
        first = "cpu" in kinds.split(",")
        own = GROUPS / ("cpu" if first else "") / place.lstrip("/")
        limits = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if first else ("cpu.max",)
        for group in (own, *own.parents) if first or not kinds else ():
            with suppress(OSError, ValueError):  # no such group, or "max"
                quota, period = map(int, " ".join((group / n).read_text() for n in limits).split())
                yield -(-quota // period) if quota > 0 else sys.maxsize


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20


@cache
def keep_freed_memory() -> bool:
    """Raise glibc's thresholds; True if they were raised."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD,
        _TRIM_THRESHOLD: 1 << 30,
        _TOP_PAD: 64 << 20,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())


@cache
def installed_version(package: str) -> str | None:
    """Version of a package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def warn_of_missing_loops(there: bool) -> None:
    """Say once that the compiled loops are not there, and what that costs."""
    if not there:
        text = (
            "DualSmooth was installed without a C compiler: noise is drawn about ten times slower "
            "on processors, and small networks run slower, too; install it again with a compiler"
        )
        warnings.warn(text, stacklevel=2)


@cache
def warn_of_untested(torch: str) -> None:
    """Say once that this PyTorch is newer than those the suite was run with."""
    if tuple(int(part) for part in torch.split(".")[:2]) > TESTED_TORCH:
        tested = ".".join(map(str, TESTED_TORCH))
        text = f"PyTorch {torch} is newer than {tested}, the newest that DualSmooth was tested with"
        warnings.warn(text, stacklevel=2)


def install_command(extra: str = "") -> str:
    """The command that installs what an extra needs, or else what the package itself does."""
    lines = [line.partition(";") for line in metadata.requires("dualsmooth") or ()]
    of = [(need.strip(), re.findall(r"extra == .([\w-]+)", when)) for need, _, when in lines]
    wanted = [need for need, extras in of if extras == ([extra] if extra else [])]
    return f"python -m pip install {shlex.join(wanted)}"
