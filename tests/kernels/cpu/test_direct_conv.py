"""The compiled convolution against PyTorch's in float64, and row by row."""

import copy

import pytest
import torch
from torch.nn import functional

from dualsmooth.kernels.cpu.direct_conv import CACHE_LINE, DirectChain, DirectConv
from dualsmooth.kernels.errors import KernelArgumentError

pytestmark = pytest.mark.usefixtures("width")

CASES = {
    "lenet first": ((1, 28, 28), (6, 5, 5), 1, (2, 2), True, True),
    "lenet second": ((6, 14, 14), (16, 5, 5), 1, (0, 0), True, True),
    "stride two, two blocks": ((3, 11, 9), (32, 3, 3), 2, (1, 1), True, False),
    "grey, three lanes' worth": ((1, 9, 70), (4, 3, 2), 1, (1, 1), True, True),
    "grey, one output": ((1, 6, 5), (1, 2, 3), 1, (0, 2), False, False),
    "grey, eight outputs, odd": ((1, 11, 35), (8, 4, 4), 1, (2, 1), False, True),
    "grey, nine outputs": ((1, 5, 6), (9, 3, 3), 1, (1, 1), True, False),
    "part of a block": ((2, 7, 33), (19, 3, 2), 1, (0, 1), False, False),
    "pooled pair and a rest": ((5, 12, 20), (37, 3, 3), 1, (1, 1), True, True),
    "strided, many channels": ((16, 13, 24), (48, 3, 3), 2, (1, 1), False, False),
    "odd line dropped": ((3, 9, 11), (5, 2, 2), 1, (0, 0), False, True),
    "one pixel": ((15, 3, 3), (17, 3, 3), 1, (0, 0), True, False),
    "kernel in parts": ((32, 17, 16), (70, 3, 3), 2, (1, 1), True, False),
    "kernel in parts, pooled": ((24, 11, 21), (33, 3, 4), 1, (2, 1), True, True),
    "wide padding": ((1, 2, 2), (3, 3, 3), 3, (4, 5), False, False),
}


def direct(name: str, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, DirectConv]:
    (channels, height, width), kernel, stride, padding, relu, pool = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    x = torch.randn(rows, height, width, channels, generator=generator).permute(0, 3, 1, 2)
    weight = torch.randn(kernel[0], channels, *kernel[1:], generator=generator)
    bias = torch.randn(kernel[0], generator=generator)
    layer = DirectConv(weight, bias, stride=stride, padding=padding, relu=relu, pool=pool)
    return x, weight, bias, layer


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_layers_in_turn(name: str) -> None:
    _, _, stride, padding, relu, pool = CASES[name]
    x, weight, bias, layer = direct(name)
    y = functional.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    y = y.relu() if relu else y
    y = functional.max_pool2d(y, 2) if pool else y
    torch.testing.assert_close(layer(x).double(), y, rtol=1e-5, atol=1e-5)
    assert layer(x).permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("name", CASES)
def test_a_row_has_the_same_bits_in_every_batch(name: str) -> None:
    x, _, _, layer = direct(name, rows=7)
    together = layer(x)
    assert torch.equal(layer(x.flip(0)).flip(0), together)
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), together)
    assert torch.equal(layer(x.contiguous()), together)


@pytest.mark.parametrize("name", CASES)
def test_normalization_is_taken_up_and_padding_stays_zero_after_it(name: str) -> None:
    (channels, _, _), _, stride, padding, relu, pool = CASES[name]
    x, weight, bias, _ = direct(name)
    mean, std = torch.linspace(-1.0, 2.0, channels), torch.linspace(0.5, 3.0, channels)
    layer = DirectConv(
        weight, bias, stride=stride, padding=padding, relu=relu, pool=pool, normalize=(mean, std)
    )
    normal = (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    plain = DirectConv(weight, bias, stride=stride, padding=padding, relu=relu, pool=pool)
    torch.testing.assert_close(layer(x), plain(normal), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "names",
    [
        ("lenet first", "lenet second"),
        ("stride two, two blocks", "kernel in parts, pooled", "strided, many channels"),
    ],
    ids=["grey and pooled", "three"],
)
def test_a_chain_gives_the_bits_of_its_layers_in_turn(names: tuple[str, ...]) -> None:
    shape, channels, layers = CASES[names[0]][0], CASES[names[0]][0][0], []
    generator = torch.Generator().manual_seed(8)
    for name in names:
        _, (outputs, *kernel), stride, padding, relu, pool = CASES[name]
        weight = torch.randn(outputs, channels, *kernel, generator=generator)
        bias, mean = torch.randn(outputs, generator=generator), torch.full((channels,), 0.5)
        options = {"stride": stride, "padding": padding, "relu": relu, "pool": pool}
        normalize = (mean, 2 * mean)
        layers.append(DirectConv(weight, bias, normalize=normalize, **options))  # type: ignore[arg-type]
        channels = outputs
    x = torch.randn(5, *shape, generator=generator)
    wanted = x
    for layer in layers:
        wanted = layer(wanted)
    chain = DirectChain(layers)
    assert torch.equal(chain(x), wanted)
    assert torch.equal(copy.deepcopy(chain)(x.flip(0)).flip(0), wanted)
    assert not any(sum(layer.parts) % CACHE_LINE for layer in layers)  # weights begin a cache line


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
@pytest.mark.parametrize("pixel", [0, 1])
def test_a_lost_value_is_not_pooled_or_clipped_away(lost: float, pixel: int) -> None:
    x = torch.zeros(1, 1, 2, 2)
    x[0, 0, pixel, pixel] = lost
    layer = DirectConv(torch.ones(1, 1, 1, 1), None, stride=1, padding=(0, 0), relu=True, pool=True)
    assert not layer(x).isfinite().any()


def test_wrong_inputs_are_named() -> None:
    layer = direct("lenet first")[3]
    for x in (torch.zeros(2, 2, 28, 28), torch.zeros(2, 1, 28, 28, dtype=torch.bfloat16)):
        with pytest.raises(KernelArgumentError, match=r"^x must be float32 \(rows, 1"):
            layer(x)
    with pytest.raises(KernelArgumentError, match=r"^x must be as large as the kernel"):
        direct("lenet second")[3](torch.zeros(1, 6, 4, 4))
