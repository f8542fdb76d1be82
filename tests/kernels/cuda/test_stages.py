"""The launch of CUDA C++ kernels, with a stand-in for CuPy."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest

from dualsmooth.kernels.cuda import stages
from dualsmooth.kernels.cuda.stages import RESIDUAL, STAGES


class Kernel:
    max_dynamic_shared_size_bytes = 0


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    stages._compiled.cache_clear()
    made = SimpleNamespace(get_function=lambda name: Kernel())
    cuda = SimpleNamespace(Device=lambda index: nullcontext())
    monkeypatch.setitem(
        sys.modules, "cupy", SimpleNamespace(cuda=cuda, RawModule=lambda **options: made)
    )
    yield
    stages._compiled.cache_clear()


@pytest.mark.usefixtures("cupy")
def test_no_kernel_is_unloaded_under_a_graph() -> None:
    """However many others are compiled after it; a cache of 128 would drop it."""
    first = ref(stages._compiled(RESIDUAL, STAGES[0], 0))
    for pitch in range(100, 300):
        stages._compiled(RESIDUAL, replace(STAGES[0], pitch=pitch), 0)
    kept = first()
    assert kept is not None
    assert kept.max_dynamic_shared_size_bytes == STAGES[0].shared


@pytest.mark.usefixtures("cupy")
def test_no_rows_are_no_launch() -> None:
    stages.launch(RESIDUAL, STAGES[0], 0)
