"""Sum, scale, shift and ReLU in one pass: bits of the passes one by one, at any size."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualsmooth.kernels import ops
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import AffineLaunch
from dualsmooth.kernels.triton import affine as right
from tests.kernels.conftest import Edit

DTYPES = (torch.float16, torch.float32)


@dataclass(frozen=True)
class Shape:
    sizes: tuple[int, ...]
    norm: bool = True
    adds: bool = True
    bias: bool = False
    relu: bool = True
    keep: bool = True
    launch: AffineLaunch | None = None


CASES = {
    "wide": Shape((2, 3, 3, 160)),
    "640 channels": Shape((1, 2, 5, 640), bias=True),
    "24 channels": Shape((3, 5, 7, 24), keep=False),
    "one channel": Shape((5, 3, 67, 1), bias=True, relu=False),
    "odd": Shape((2, 5, 5, 23), bias=True),
    "norm alone": Shape((2, 3, 5, 36), adds=False, keep=False),
    "sum alone": Shape((2, 3, 5, 12), norm=False, bias=True, relu=False, keep=False),
    "few strips": Shape((2, 5, 5, 40), bias=True, launch=AffineLaunch(16, 4)),
    "one value": Shape((1, 1), bias=True),
    "nothing": Shape((0, 4, 4, 8)),
}


def tensors(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    draws = torch.Generator().manual_seed(len(shape.sizes) + shape.sizes[-1])
    x, other = (torch.randn(shape.sizes, generator=draws) for _ in range(2))
    bias, scale, shift = (torch.randn(shape.sizes[-1], generator=draws) for _ in range(3))
    if x.numel() > 99:
        x.view(-1)[7::31], other.view(-1)[5::37] = float("nan"), float("inf")
    return x.to(dtype), other.to(dtype), bias, scale, shift


def wrong(shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    """What differs in bits from one pass after the other."""
    x, other, bias, scale, shift = (t.to(device) for t in tensors(shape, dtype))
    total, y = ops.affine(
        x,
        *((scale, shift) if shape.norm else ()),
        other=other if shape.adds else None,
        bias=bias if shape.bias else None,
        relu=shape.relu,
        keep=shape.keep,
        backend="triton",
        launch=shape.launch,
    )
    s = x.float() + bias if shape.bias else x.float()
    s = (s + other.float() if shape.adds else s).to(dtype)
    truth = s.float() * scale + shift if shape.norm else s.float()
    truth = (truth.relu() if shape.relu else truth).to(dtype)
    assert (total is not None) == shape.keep
    pairs = {"y": (y, truth)} | ({} if total is None else {"s": (total, s)})
    for name, (found, wanted) in pairs.items():
        if not torch.equal(found.isnan(), wanted.isnan()):
            return f"NaN of {name}"
        if not torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0)):
            return name
    return ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_bits_are_those_of_one_pass_after_the_other(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    assert wrong(CASES[name], dtype, device) == ""


@pytest.mark.parametrize("name", CASES)
def test_the_reference_has_the_same_bits(name: str, device: torch.device) -> None:
    x, other, bias, scale, shift = (t.to(device) for t in tensors(CASES[name], torch.float16))
    made = [
        ops.affine(x, scale, shift, other=other, bias=bias, keep=True, backend=backend)
        for backend in ("triton", "reference")
    ]
    for found, wanted in zip(*made, strict=True):
        assert found is not None
        assert wanted is not None
        assert torch.equal(found.view(torch.int16), wanted.view(torch.int16)) or torch.equal(
            found.nan_to_num(7.0), wanted.nan_to_num(7.0)
        )


@settings(max_examples=25)
@given(
    channels=st.integers(1, 70),
    pixels=st.integers(1, 90),
    norm=st.booleans(),
    adds=st.booleans(),
    bias=st.booleans(),
    relu=st.booleans(),
    width=st.sampled_from((16, 64)),
    rows=st.sampled_from((1, 4)),
)
def test_any_size(
    channels: int,
    pixels: int,
    norm: bool,
    adds: bool,
    bias: bool,
    relu: bool,
    width: int,
    rows: int,
    device: torch.device,
) -> None:
    launch = AffineLaunch(width, rows)
    shape = Shape((pixels, channels), norm, adds, bias, relu, pixels % 2 == 0, launch)
    assert wrong(shape, torch.float16, device) == ""


BROKEN = {
    "scale and shift swapped": (
        "y * tl.load(scale + channel)[None, :] + tl.load(shift + channel)",
        "y * tl.load(shift + channel)[None, :] + tl.load(scale + channel)",
    ),
    "a sum that is not rounded": ("y = y.to(out.dtype.element_ty).to(tl.float32)", "pass"),
    "bias left out": ("y += tl.load(bias + channel)[None, :]", "pass"),
    "other left out": ("y += tl.load(other + at", "y += 0 * tl.load(other + at * 0"),
    "NaN lost": (
        "tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)",
        "tl.where(y > 0, y, 0.0)",
    ),
    "sum stored behind the norm": ("tl.store(total + at, y.to", "tl.store(total + at, (y + 1).to"),
    "channels of the strip": ("program % PERIOD * WIDTH % CHANNELS", "program * 0"),
    "strips": ("* PERIOD + program % PERIOD", "+ program % PERIOD"),
    "tail": ("live = at < values", "live = at < values - 1"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_kernel_is_noticed(fault: str, device: torch.device, edit: Edit) -> None:
    edit(right, *BROKEN[fault])
    assert wrong(CASES["few strips"], torch.float16, device) != ""


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", dict(x=torch.zeros(4, 0))),
        ("scale", dict(scale=torch.zeros(5))),
        ("shift", dict(shift=torch.zeros(4).half())),
        ("shift", dict(shift=None)),
        ("bias", dict(bias=torch.zeros(3))),
        ("other", dict(other=torch.zeros(1, 4))),
        ("other", dict(other=torch.zeros(2, 4).half())),
        ("x", dict(x=torch.zeros(4, 2).T)),
        ("other", dict(other=torch.zeros(2, 4, device="meta"))),
        ("backend", dict(backend="cuda")),
    ],
)
def test_bad_arguments_are_named(argument: str, change: dict[str, object]) -> None:
    call = dict(x=torch.zeros(2, 4), scale=torch.zeros(4), shift=torch.zeros(4))
    with pytest.raises(KernelArgumentError, match=f"^{argument} "):
        ops.affine(**(call | change))  # type: ignore[arg-type]
