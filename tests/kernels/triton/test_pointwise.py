"""The 1x1 convolution as a matrix product equals the convolution, shortcut and ReLU included."""

from dataclasses import dataclass

import pytest
import torch

from dualsmooth.kernels import ops
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import PointwiseLaunch
from dualsmooth.kernels.triton import pointwise as right
from tests.kernels.conftest import Edit


@dataclass(frozen=True)
class Shape:
    rows: int
    height: int
    width: int
    inputs: int
    outputs: int
    stride: int = 1
    shortcut: bool = False
    relu: bool = True


CASES = {
    "plain": Shape(2, 5, 3, 48, 32),
    "shortcut": Shape(3, 3, 7, 32, 64, shortcut=True),
    "strided": Shape(2, 7, 5, 16, 96, stride=2, relu=False),
    "even, strided": Shape(1, 6, 4, 64, 16, stride=2, shortcut=True),
    "one pixel": Shape(1, 1, 1, 128, 16),
}
LIMIT = {torch.float32: 1e-5, torch.float16: 4e-3}


def tensors(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(shape.inputs)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    x = normal(shape.rows, shape.height, shape.width, shape.inputs)
    weight = normal(shape.inputs, shape.outputs) / shape.inputs**0.5
    high, wide = (-(-n // shape.stride) for n in (shape.height, shape.width))
    shortcut = normal(shape.rows, high, wide, shape.outputs)
    return (*(t.to(device, dtype) for t in (x, weight, shortcut)), normal(shape.outputs).to(device))


def gap(shape: Shape, dtype: torch.dtype, device: torch.device) -> float:
    x, weight, shortcut, bias = tensors(shape, dtype, device)
    launch = PointwiseLaunch(16, 16, 16)
    residual = shortcut if shape.shortcut else None
    options = dict(stride=shape.stride, relu=shape.relu, residual=residual, launch=launch)
    y = ops.pointwise(x, weight, bias, backend="triton", **options)  # type: ignore[arg-type]
    truth = x[:, :: shape.stride, :: shape.stride].double() @ weight.double() + bias.double()
    truth = truth + shortcut.double() if shape.shortcut else truth
    truth = truth.relu() if shape.relu else truth
    return float((y.double() - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("dtype", LIMIT, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_product(name: str, dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cuda" and dtype == torch.float32:
        pytest.skip("refused there")
    assert gap(CASES[name], dtype, device) <= LIMIT[dtype]


def test_a_pixel_depends_on_itself_alone_and_keeps_nan(device: torch.device) -> None:
    x, weight, shortcut, bias = tensors(CASES["shortcut"], torch.float16, device)
    x[1, 2, 3, 5] = float("nan")
    call = dict(residual=shortcut, backend="triton", launch=PointwiseLaunch(32, 32, 16))
    y = ops.pointwise(x, weight, bias, **call)  # type: ignore[arg-type]
    assert y[1, 2, 3].isnan().all()
    assert y.isnan().sum() == y.shape[3]
    call["residual"] = shortcut.flip(0).contiguous()
    backward = ops.pointwise(x.flip(0).contiguous(), weight, bias, **call)  # type: ignore[arg-type]
    assert torch.equal(backward.flip(0).nan_to_num(7), y.nan_to_num(7))


BROKEN = {
    "bias": ("acc += tl.load(bias + cout)[None, :]\n", "", "plain"),
    "outputs": ("program % (COUT // OUTPUTS) * OUTPUTS", "program % (COUT // OUTPUTS)", "plain"),
    "pixels": ("program // (COUT // OUTPUTS) * PIXELS", "program * PIXELS", "plain"),
    "steps": ("first + tl.arange(0, CHUNK)", "tl.arange(0, CHUNK)", "plain"),
    "shortcut": ("residual + at", "residual + at * 0", "shortcut"),
    "columns": ("pixel % OUT_WIDTH * STRIDE", "pixel % OUT_WIDTH", "strided"),
    "rows": ("row * HEIGHT + y", "row * OUT_HEIGHT + y", "strided"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_kernel_is_noticed(fault: str, device: torch.device, edit: Edit) -> None:
    *texts, name = BROKEN[fault]
    edit(right, *texts)
    assert not gap(CASES[name], torch.float32, device) <= 100 * LIMIT[torch.float32]


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("weight", dict(weight=torch.zeros(24, 16))),
        ("weight", dict(weight=torch.zeros(32, 24))),
        ("bias", dict(bias=torch.zeros(8))),
        ("stride", dict(stride=0)),
        ("residual", dict(residual=torch.zeros(1, 3, 3, 32))),
    ],
)
def test_bad_arguments_are_named(argument: str, change: dict[str, object]) -> None:
    call = dict(x=torch.zeros(1, 2, 3, 32), weight=torch.zeros(32, 16), bias=torch.zeros(16))
    with pytest.raises(KernelArgumentError, match=f"^{argument.replace('[', '.')} "):
        ops.pointwise(**(call | change))  # type: ignore[arg-type]


def test_candidates_tile_every_convolution_of_resnet_50() -> None:
    for wide in (64, 128, 256, 512):
        for inputs, outputs in ((wide, 4 * wide), (4 * wide, wide), (2 * wide, wide)):
            for choice in PointwiseLaunch.candidates(inputs, outputs):
                assert inputs % choice.chunk == outputs % choice.outputs == 0
