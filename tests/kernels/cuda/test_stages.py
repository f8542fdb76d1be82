"""The launch of CUDA C++ kernels, with a stand-in for CuPy."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from torch.utils import dlpack

from dualsmooth.kernels.cuda import stages
from dualsmooth.kernels.cuda.stages import RESIDUAL, STAGES


class Kernel:
    max_dynamic_shared_size_bytes = 0
    launched: Any = None

    def __call__(self, *launch: Any, **options: Any) -> None:
        Kernel.launched = *launch, options


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    stages._compiled.cache_clear()
    made = SimpleNamespace(get_function=lambda name: Kernel())
    cuda = SimpleNamespace(Device=lambda index: nullcontext())
    whole = SimpleNamespace(cuda=cuda, RawModule=lambda **options: made)
    monkeypatch.setitem(sys.modules, "cupy", whole)
    yield whole
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


def test_a_launch_passes_what_the_kernel_takes(
    cupy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors as they are, bfloat16 by its bits, numbers in 32 bits, on the stream of PyTorch."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ("stream", device))
    shared = list[Any]()

    @contextmanager
    def external(stream: Any) -> Iterator[None]:
        shared.append(stream)
        yield

    cupy.cuda.Stream = SimpleNamespace(from_external=external)
    cupy.int32, cupy.from_dlpack = np.int32, dlpack.from_dlpack
    x, y = torch.arange(4).bfloat16(), torch.arange(3.0)
    stages.launch(RESIDUAL, STAGES[0], 7, x, y, 5)
    assert shared == [("stream", x.device)]
    grid, block, (bits, floats, number), options = Kernel.launched
    assert (grid, block) == ((7,), (32 * STAGES[0].warps,))
    assert options == {"shared_mem": STAGES[0].shared}
    assert torch.equal(bits, x.view(torch.int16))
    assert torch.equal(floats, y)
    assert bits.data_ptr() == x.data_ptr()
    assert type(number) is np.int32
    assert number == 5


def test_shared_memory_is_that_of_a_device_that_has_the_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = SimpleNamespace(major=9, shared_memory_per_block_optin=232_448)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(stages, "find_spec", lambda name: name)
    assert stages.shared_memory(torch.device("cuda")) == 232_448
    assert stages.shared_memory(torch.device("cpu")) == 0
    found.major = 7
    assert stages.shared_memory(torch.device("cuda")) == 0
    found.major = 8
    monkeypatch.setattr(stages, "find_spec", lambda name: None)
    assert stages.shared_memory(torch.device("cuda")) == 0


@pytest.mark.usefixtures("cupy")
def test_no_rows_are_no_launch() -> None:
    stages.launch(RESIDUAL, STAGES[0], 0)
