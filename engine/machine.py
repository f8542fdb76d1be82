"""The machine a run was made on, for the record. It does not decide certificates."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from dualsmooth.engine.versions import installed_version

PACKAGES = ("dualsmooth", "torch", "numpy", "scipy")


def machine() -> dict[str, Any]:
    """Versions and hardware."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    openvino = installed_version("openvino")
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "devices": _devices(),
        "cores": os.cpu_count(),
        "versions": versions | ({"openvino": openvino} if openvino else {}),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _devices() -> list[str]:
    """Names of CUDA devices, if torch has been imported; a run log alone does not need it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
