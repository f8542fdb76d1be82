"""The compiled Winograd convolution against PyTorch's in float64, row by row, and in chains."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dualsmooth.kernels.cpu.winograd_conv import (
    BLOCKS,
    WinogradChain,
    WinogradConv,
    lanes,
    saves_products,
    slots_of,
)
from dualsmooth.kernels.errors import KernelArgumentError

pytestmark = pytest.mark.usefixtures("width")

CASES = {
    "whole tiles": ((16, 16, 12), 16, (1, 1), True, True),
    "pairs of vectors": ((32, 8, 8), 32, (1, 1), True, False),
    "odd vectors": ((16, 6, 9), 48, (1, 1), False, True),
    "more out than in": ((16, 5, 7), 96, (1, 1), True, False),
    "more in than out": ((80, 7, 5), 16, (1, 1), False, False),
    "no padding": ((32, 11, 6), 64, (0, 0), True, True),
    "wide padding": ((16, 1, 2), 16, (2, 5), False, False),
    "one output": ((16, 3, 3), 16, (0, 0), True, False),
}


def maps(rows: int, *shape: int, seed: int = 0) -> torch.Tensor:
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, height, width, channels, generator=generator).permute(0, 3, 1, 2)


def layer(inputs: int, outputs: int, padding: tuple[int, int], relu: bool, seed: int = 1) -> tuple[
    torch.Tensor, torch.Tensor, WinogradConv
]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / (9 * inputs) ** 0.5
    bias = torch.randn(outputs, generator=generator)
    return weight, bias, WinogradConv(weight, bias, padding=padding, relu=relu)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_layers_in_turn(name: str) -> None:
    shape, outputs, padding, relu, added = CASES[name]
    x = maps(3, *shape)
    weight, bias, convolution = layer(shape[0], outputs, padding, relu)
    y = functional.conv2d(x.double(), weight.double(), bias.double(), 1, padding)
    shortcut = maps(*y.shape, seed=2) if added else None
    y = y + shortcut.double() if shortcut is not None else y
    y = y.relu() if relu else y
    got = convolution(x, shortcut)
    torch.testing.assert_close(got.double(), y, rtol=0.0, atol=2e-5)
    assert got.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("name", CASES)
def test_a_row_has_the_same_bits_in_every_batch(name: str) -> None:
    shape, outputs, padding, relu, _ = CASES[name]
    x = maps(2 * BLOCKS[lanes()] + 3, *shape)
    convolution = layer(shape[0], outputs, padding, relu)[2]
    together = convolution(x)
    assert torch.equal(convolution(x.flip(0)).flip(0), together)
    assert torch.equal(torch.cat([convolution(row[None]) for row in x]), together)
    assert torch.equal(convolution(x.contiguous()), together)


def test_it_is_nearly_as_exact_as_a_direct_convolution() -> None:
    x = maps(4, 64, 16, 16)
    weight, bias, convolution = layer(64, 64, (1, 1), False)
    exact = functional.conv2d(x.double(), weight.double(), bias.double(), 1, 1)
    direct = functional.conv2d(x, weight, bias, 1, 1)
    error = (convolution(x).double() - exact).square().mean().sqrt()
    assert error < 4 * (direct.double() - exact).square().mean().sqrt()


@pytest.mark.parametrize(("lost", "relu"), [(float("nan"), True), (float("inf"), False)])
def test_a_lost_value_is_not_clipped_away(lost: float, relu: bool) -> None:
    x = torch.zeros(2, 16, 9, 9)
    x[0, 3, 4, 4] = lost
    weight, _, _ = layer(16, 16, (1, 1), relu)
    y = WinogradConv(weight, None, padding=(1, 1), relu=relu)(x)
    assert not y[0, :, 3:6, 3:6].isfinite().any()
    assert y[1].isfinite().all()


WIRINGS = {
    "residual blocks": ([(0, None), (1, 0), (2, None), (3, 2), (4, None), (5, 4)], 1),
    "shortcut from outside": ([(0, 1), (2, None), (3, 2), (4, 1)], 2),
    "read again late": ([(0, None), (1, 0), (2, 1), (3, 1), (4, 1), (5, 3)], 1),
}


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_a_chain_gives_what_its_layers_give_in_turn(wiring: str, rows: int) -> None:
    pairs, inputs = WIRINGS[wiring]
    layers = [layer(16, 16, (1, 1), True, seed=i)[2] for i in range(len(pairs))]
    values = [maps(rows, 16, 32, 32, seed=10 + i) for i in range(inputs)]
    got = WinogradChain(layers, pairs, inputs=inputs)(*values)
    results = list(values)
    for convolution, (read, added) in zip(layers, pairs, strict=True):
        shortcut = None if added is None else results[added]
        results.append(convolution(results[read], shortcut))
    assert torch.equal(got, results[-1])


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_no_slot_is_written_while_it_is_still_to_be_read(data: st.DataObject) -> None:
    inputs = data.draw(st.integers(1, 3))
    wiring = []
    for number in range(data.draw(st.integers(1, 12))):
        known = st.integers(0, inputs + number - 1)
        wiring.append((data.draw(known), data.draw(st.none() | known)))
    slots = slots_of(wiring, inputs)
    for early, late in itertools.combinations(range(len(wiring)), 2):
        if slots[early] == slots[late]:
            assert all(inputs + early not in pair for pair in wiring[late:])


def test_tiles_must_save_half_of_the_products() -> None:
    for shape in ((3, 3), (4, 4), (7, 7), (32, 32)):
        assert saves_products(*shape)
    for shape in ((2, 2), (5, 5), (1, 9)):
        assert not saves_products(*shape)


def test_wrong_inputs_are_named() -> None:
    convolution = layer(16, 16, (0, 0), True)[2]
    for x in (torch.zeros(2, 16, 9), torch.zeros(2, 16, 9, 9, dtype=torch.bfloat16)):
        with pytest.raises(KernelArgumentError, match=r"^x must be float32 \(rows, channels"):
            convolution(x)
    for x in (torch.zeros(2, 32, 9, 9), torch.zeros(2, 16, 2, 9)):
        with pytest.raises(KernelArgumentError, match=r"^x must have 16 channels"):
            convolution(x)
    with pytest.raises(KernelArgumentError, match=r"^shortcut must be \(7, 7, 16\)"):
        convolution(maps(2, 16, 9, 9), maps(2, 16, 9, 9))
    with pytest.raises(KernelArgumentError, match=r"^weight must be \(outputs, channels, 3, 3\)"):
        WinogradConv(torch.zeros(16, 8, 3, 3), None, padding=(1, 1), relu=True)
