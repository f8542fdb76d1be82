"""Convolution kernel against the reference: every edge, tails, residual and shortcut, NaN."""

import math
from typing import Any

import pytest
import torch

from dualsmooth.kernels import ops
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import ConvLaunch

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2}
LAYERS: dict[str, dict[str, Any]] = {
    "3x3": dict(size=(5, 7), cin=16, cout=16, kernel=3, stride=1),
    "3x3 one pixel": dict(size=(1, 1), cin=16, cout=32, kernel=3, stride=1),
    "3x3 stride 2": dict(size=(6, 10), cin=16, cout=32, kernel=3, stride=2),
    "3x3 wide channels": dict(size=(3, 4), cin=64, cout=64, kernel=3, stride=1),
    "1x1": dict(size=(5, 3), cin=32, cout=16, kernel=1, stride=1),
    "1x1 stride 2": dict(size=(4, 4), cin=32, cout=64, kernel=1, stride=2),
}
Options = dict[str, Any]


def layer(config: Options, dtype: torch.dtype, device: torch.device) -> Options:
    generator = torch.Generator().manual_seed(4)
    height, width = config["size"]
    cin, cout, kernel = config["cin"], config["cout"], config["kernel"]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weight = normal(kernel, kernel, cin, cout) / math.sqrt(kernel**2 * cin)
    parts = dict(x=normal(3, height, width, cin), weight=weight)
    moved = {name: tensor.to(device, dtype) for name, tensor in parts.items()}
    return moved | dict(bias=normal(cout).to(device))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", LAYERS)
def test_conv_equals_the_reference(name: str, dtype: torch.dtype, device: torch.device) -> None:
    """The last tile is partial: 64 pixels per program never divide these images."""
    config = LAYERS[name]
    if device.type == "cuda" and dtype == torch.float32 and config["cin"] + config["cout"] > 32:
        with pytest.raises(KernelArgumentError, match="must not be float32 on a GPU"):
            ops.conv(**layer(config, dtype, device), stride=int(config["stride"]))
        return
    call, stride = layer(config, dtype, device), int(config["stride"])
    got, expected = (
        ops.conv(**call, stride=stride, backend=b, launch=ConvLaunch(64))
        for b in ("triton", "reference")
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE[dtype])
    assert (got == 0).any()
    assert (got > 0).any()


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("kind", ["identity", "projection", "strided projection"])
def test_shortcuts(kind: str, relu: bool, device: torch.device) -> None:
    wide = device.type != "cuda"
    call = layer(LAYERS["3x3"] | dict(size=(4, 6), cout=32 if wide else 16), torch.float32, device)
    channels = call["bias"].shape[0]
    generator = torch.Generator().manual_seed(5)
    extra: Options = {}
    if kind == "identity":
        extra["residual"] = torch.randn(3, 4, 6, channels, generator=generator).to(device)
    else:
        step = 2 if kind == "strided projection" else 1
        source = torch.randn(3, 4 * step, 6 * step, 16, generator=generator).to(device)
        extra["shortcut"] = source, torch.randn(16, channels, generator=generator).to(device)
    got, expected = (
        ops.conv(**call, **extra, relu=relu, backend=b) for b in ("triton", "reference")
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    plain = ops.conv(**call, relu=relu, backend="reference")
    assert (expected - plain).abs().max() > 0.1
    assert bool((got < 0).any()) is not relu


def test_nan_survives_the_relu(device: torch.device) -> None:
    """A NaN must reach the vote, where it is counted as invalid; a ReLU must not hide it."""
    call = layer(LAYERS["3x3"], torch.float32, device)
    call["x"][1, 2, 3, 0] = math.nan
    y = ops.conv(**call, backend="triton")
    touched = torch.zeros(3, 5, 7, dtype=torch.bool)
    touched[1, 1:4, 2:5] = True
    assert torch.equal(y.isnan().any(-1).cpu(), touched)
    assert torch.equal(y.isnan().all(-1).cpu(), touched)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", dict(x=torch.zeros(1, 4, 16))),
        ("weight", dict(weight=torch.zeros(3, 3, 16, 24))),
        ("weight", dict(weight=torch.zeros(5, 5, 16, 16))),
        ("weight", dict(weight=torch.zeros(3, 3, 16, 16).half())),
        ("bias", dict(bias=torch.zeros(8))),
        ("stride", dict(stride=3)),
        ("stride", dict(x=torch.zeros(1, 5, 4, 16), stride=2)),
        ("residual", dict(residual=torch.zeros(1, 4, 4, 32))),
        ("shortcut[0]", dict(shortcut=(torch.zeros(1, 8, 4, 16), torch.zeros(16, 16)))),
        ("shortcut[1]", dict(shortcut=(torch.zeros(1, 8, 8, 16), torch.zeros(32, 16)))),
    ],
)
def test_bad_arguments_are_named(argument: str, change: Options) -> None:
    call: Options = dict(
        x=torch.zeros(1, 4, 4, 16), weight=torch.zeros(3, 3, 16, 16), bias=torch.zeros(16)
    )
    with pytest.raises(KernelArgumentError) as error:
        ops.conv(**(call | change))
    assert error.value.argument == argument
