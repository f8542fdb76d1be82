"""What this machine's processor can do, and the sampler that uses it."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from dualsmooth.engine.runtime.cpu_sampler import CpuSampler
from dualsmooth.engine.runtime.torch_sampler import TorchSampler
from dualsmooth.kernels.cpu import noise_votes


@cache
def multiplies_bf16() -> bool:
    """Whether the processor has bfloat16 dot products (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def make_sampler(
    networks: Mapping[str, torch.nn.Module],
    outputs: Mapping[str, int],
    shape: tuple[int, int, int],
    **settings: Any,
) -> TorchSampler | CpuSampler:
    """The fastest sampler this machine has; parameters and errors as `TorchSampler`."""
    kind = CpuSampler if noise_votes.available() else TorchSampler
    return kind(networks, outputs, shape, **settings)
