"""Kernels run in the Triton interpreter where there is no CUDA device."""

import importlib.util
import inspect
import math
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.empty` returns NaN (or the lowest integer), so that an unwritten output shows."""
    with torch.device("cpu"):  # PyTorch notes once what `torch.device` is for: torch.empty as it is
        empty = torch.empty
        empty(0)

    def poisoned(*args: Any, **options: Any) -> torch.Tensor:
        tensor = empty(*args, **options)
        lowest = float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).min
        return tensor.fill_(lowest)

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """References on a device compute float32 in float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


Edit = Callable[[ModuleType, str, str], None]


@pytest.fixture
def edit(device: torch.device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Edit:
    """Puts one text of a module in place of another, in its kernels."""
    if device.type == "cuda":
        pytest.skip("an edited kernel runs in the interpreter")

    def put(module: ModuleType, old: str, new: str) -> None:
        source = inspect.getsource(module)
        assert old in source
        path = tmp_path / "edited.py"
        path.write_text(source.replace(old, new))
        spec = importlib.util.spec_from_file_location("edited", path)
        assert spec is not None
        assert spec.loader is not None
        edited = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(edited)
        for name in vars(module):
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, getattr(edited, name))

    return put


GUARD = 1 << 36
"""Bytes around sparse memory: what an offset of 32 bits reaches, of elements of 16 bytes."""

Sparse = Callable[..., torch.Tensor]


@pytest.fixture
def sparse() -> Sparse:
    """Tensors of zeros, of any size: only pages that are written take memory."""
    if sys.platform != "linux":
        pytest.skip("memory that is not there needs Linux")
    unreserved = 0x4000  # MAP_NORESERVE, which Python names from 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | unreserved

    def made(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        if not (count := math.prod(shape)):
            return torch.zeros(shape, dtype=dtype)
        memory = mmap.mmap(-1, 2 * GUARD + count * dtype.itemsize, flags=flags)
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=GUARD).view(shape)

    return made
