"""Vectors of sixteen values (AVX-512) and of eight (AVX2) give the same bits."""

from collections.abc import Callable

import pytest
import torch

from dualsmooth.kernels.cpu.linear import LinearChain
from tests.kernels.cpu import test_direct_conv as direct
from tests.kernels.cpu import test_linear as linear
from tests.kernels.cpu import test_winograd_conv as winograd


def directly(name: str) -> torch.Tensor:
    x, _, _, layer = direct.direct(name)
    y: torch.Tensor = layer(x)
    return y


def by_winograd(name: str) -> torch.Tensor:
    shape, outputs, padding, relu, _ = winograd.CASES[name]
    y: torch.Tensor = winograd.layer(shape[0], outputs, padding, relu)[2](winograd.maps(3, *shape))
    return y


def layers(sizes: tuple[int, ...]) -> torch.Tensor:
    y: torch.Tensor = LinearChain(linear.layers(sizes))(linear.rows(45, sizes[0]))
    return y


CASES = [
    *((directly, name) for name in direct.CASES),
    *((by_winograd, name) for name in winograd.CASES),
    *((layers, sizes) for sizes in linear.SIZES),
]


@pytest.mark.parametrize(("run", "case"), CASES)
def test_bits_do_not_depend_on_the_width(
    run: Callable[[object], torch.Tensor], case: object, use_width: Callable[[int], None]
) -> None:
    found = []
    for width in (16, 8):
        use_width(width)
        found.append(run(case).view(torch.int32))
    assert torch.equal(*found)
