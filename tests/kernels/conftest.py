"""Kernels run in the Triton interpreter where there is no CUDA device."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.empty` returns NaN (or the lowest integer), so that an unwritten output shows."""
    empty = torch.empty

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
