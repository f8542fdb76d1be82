"""The compiled integer loops against their definition in plain PyTorch: every bit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from dualsmooth.engine.models import int8
from dualsmooth.engine.models.int8 import Int8Layers
from dualsmooth.kernels.cpu import int8_conv
from dualsmooth.kernels.cpu.int8_conv import Int8Chain
from dualsmooth.kernels.cpu.maps import TILES
from dualsmooth.kernels.errors import KernelArgumentError

pytestmark = pytest.mark.usefixtures("int8_loops")

ENDS = {"inverse": 61.3, "zero": 97.0, "last_zero": 3.0, "last_scale": 0.017}

CASES: dict[str, tuple[tuple[int, int, int], list[str]]] = {
    "color image": ((9, 7, 3), ["16 3x3 stride 1 pad 1x1 of 0"]),
    "grey image, stride 2": ((8, 8, 1), ["32 3x3 stride 2 pad 1x1 of 0"]),
    "odd channels": ((7, 11, 5), ["21 3x3 stride 1 pad 1x1 of 0", "7 3x3 stride 2 pad 1x1 of 1"]),
    "kernel of 5 and maximum": (
        (13, 12, 1),
        [
            "6 5x5 stride 1 pad 2x2 of 0",
            "max 2x2 stride 2 pad 0x0 of 1",
            "16 5x5 stride 1 pad 0x0 of 2",
        ],
    ),
    "stem of 7, padded maximum": (
        (21, 17, 3),
        [
            "64 7x7 stride 2 pad 3x3 of 0",
            "max 3x3 stride 2 pad 1x1 of 1",
            "64 1x1 stride 1 pad 0x0 of 2",
        ],
    ),
    "block with shortcut": (
        (16, 16, 16),
        ["16 3x3 stride 1 pad 1x1 of 0", "16 3x3 stride 1 pad 1x1 of 1 plus 0"],
    ),
    "block with projection": (
        (9, 10, 16),
        [
            "32 1x1 stride 2 pad 0x0 of 0",
            "32 3x3 stride 2 pad 1x1 of 0",
            "32 3x3 stride 1 pad 1x1 of 2 plus 1",
            "64 3x3 stride 1 pad 1x1 of 3",
        ],
    ),
    "shortcut over a block": (
        (8, 8, 16),
        [
            "16 3x3 stride 1 pad 1x1 of 0",
            "16 3x3 stride 1 pad 1x1 of 1",
            "16 3x3 stride 1 pad 1x1 of 2 plus 1",
            "16 1x1 stride 1 pad 0x0 of 3 plus 0",
        ],
    ),
    "linear layers": (
        (4, 4, 16),
        [
            "64 3x3 stride 2 pad 1x1 of 0",
            "128 2x2 stride 1 pad 0x0 of 1",
            "84 1x1 stride 1 pad 0x0 of 2",
            "84 1x1 stride 1 pad 0x0 of 3 plus 3",
        ],
    ),
    "wide padding, one pixel": ((2, 1, 4), ["16 3x3 stride 1 pad 3x5 of 0"]),
    "pairs of vectors": (
        (3, 16, 32),
        [
            "32 3x3 stride 1 pad 1x1 of 0",
            "64 3x3 stride 2 pad 1x1 of 1",
            "64 3x3 stride 1 pad 1x1 of 2 plus 2",
        ],
    ),
    "lines of 7 and 14": (
        (14, 14, 64),
        [
            "64 3x3 stride 1 pad 1x1 of 0",
            "64 3x3 stride 2 pad 1x1 of 1",
            "10 3x3 stride 1 pad 1x1 of 1",
        ],
    ),
}


def layers(name: str, seed: int = 0, extreme: bool = False) -> Int8Layers:
    """Integer layers with random numbers; their sums and results use the whole range."""
    (_, _, channels), steps = CASES[name]
    made, draw = Int8Layers(channels, steps), torch.Generator().manual_seed(seed)
    for part in made.parts():
        part.rim.random_(0, 256, generator=draw)
        if not part.convolves:
            continue
        weight = part.get_buffer("weight").random_(-127, 128, generator=draw)
        if extreme:
            weight.copy_(127 * weight.sign())
        size = weight[0].numel() ** 0.5
        part.get_buffer("scale").uniform_(0.005 / size, 0.02 / size, generator=draw)
        part.get_buffer("bias").uniform_(0.0, 200.0, generator=draw)
        part.get_buffer("factor").uniform_(0.1, 0.9, generator=draw)
    made.rim.random_(0, 256, generator=draw)
    for number, value in {
        "inverse": 61.3,
        "zero": 97.0,
        "last_zero": 3.0,
        "last_scale": 0.017,
    }.items():
        made.get_buffer(number).fill_(value)
    return made.eval()


def images(name: str, rows: int = 5) -> torch.Tensor:
    (height, width, channels), _ = CASES[name]
    pixels = torch.randn(rows, height, width, channels, generator=torch.Generator().manual_seed(1))
    pixels[0] *= 1e3
    pixels[1, 0] = float("nan")
    pixels[1, 1:] = float("inf")
    return pixels.permute(0, 3, 1, 2)


def chain(made: Int8Layers, name: str) -> Int8Chain:
    steps = [part.as_step() for part in made.parts()]
    return Int8Chain(steps, made.ends(), CASES[name][0], tiled=False)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("extreme", [False, True], ids=["random", "largest weights"])
def test_the_loops_give_the_bits_of_the_definition(name: str, extreme: bool) -> None:
    made, x = layers(name, extreme=extreme), images(name)
    wanted = made(x)
    assert torch.equal(chain(made, name)(x), wanted)
    steps = wanted / 0.017
    assert steps.unique().numel() > 20, "the case has few values"


@pytest.mark.parametrize("name", CASES)
def test_a_row_has_the_same_bits_in_every_batch(name: str) -> None:
    loops = chain(layers(name), name)
    x = images(name, loops._rows + 20)
    together = loops(x)
    assert torch.equal(loops(x.flip(0)).flip(0), together)
    assert torch.equal(loops(x.contiguous()), together)
    assert torch.equal(torch.cat([loops(row[None]) for row in x[:12]]), together[:12])


@pytest.mark.parametrize("name", CASES)
def test_products_of_tiles_have_the_same_bits(name: str, emulated: Callable[..., None]) -> None:
    emulated("int8")
    assert int8_conv.has_tiles()
    made, x = layers(name, extreme=True), images(name, 40)
    steps = [part.as_step() for part in made.parts()]
    loops = Int8Chain(steps, made.ends(), CASES[name][0])
    assert any(layer.tiled for layer in loops._layers) or CASES[name][0][2] < 16
    assert torch.equal(loops(x), Int8Chain(steps, made.ends(), CASES[name][0], tiled=False)(x))


def test_tiles_that_give_other_bits_are_not_used(emulated: Callable[..., None]) -> None:
    emulated("int8", "_tile_loadd(7, weight + BLOCK, line);", "_tile_loadd(7, weight, line);")
    assert not int8_conv.has_tiles()


def test_every_tile_is_tried() -> None:
    used = set()
    for name in CASES:
        made = chain(layers(name), name)
        used |= {(layer.pixels, layer.vectors) for layer in made._layers if not layer.maximum}
    assert used == set(TILES)


def broken(monkeypatch: pytest.MonkeyPatch, variant: str, made: Int8Layers) -> None:
    """The definition with one thing wrong."""
    step, conv2d = int8.Int8Step, functional.conv2d
    if variant == "rounds half up":
        monkeypatch.setattr(int8, "cut", lambda v: (v.nan_to_num() + 0.5).floor().clamp(0, 255))
    elif variant == "cuts off at 127":
        monkeypatch.setattr(int8, "cut", lambda v: v.nan_to_num().clamp(0, 127).round())
    elif variant == "sums in 16 bits":

        def saturating(x: Any, w: Any, *rest: Any) -> torch.Tensor:
            return conv2d(x, w, *rest).clamp(-(1 << 15), (1 << 15) - 1)

        monkeypatch.setattr(functional, "conv2d", saturating)
    elif variant == "signed values":

        def signed(x: Any, w: Any, *rest: Any) -> torch.Tensor:
            return conv2d(torch.where(x > 127, x - 256, x), w, *rest)

        monkeypatch.setattr(functional, "conv2d", signed)
    elif variant == "scale of another output":
        made.parts()[0].get_buffer("scale").copy_(made.parts()[0].get_buffer("scale").roll(1))
    elif variant == "border of zeros":
        made.rim.zero_()
    elif variant == "one rounding fewer":

        def fused(self: Any, x: Any, shortcut: Any) -> torch.Tensor:
            sums = conv2d(x.double(), self.weight.double(), None, self.stride)
            value = sums * self.scale.view(1, -1, 1, 1).double() + self.bias.view(1, -1, 1, 1)
            return int8.cut(value.float() if shortcut is None else value + shortcut * self.factor)

        monkeypatch.setattr(step, "forward", fused)


@pytest.mark.parametrize(
    "variant",
    [
        *("rounds half up", "cuts off at 127", "sums in 16 bits", "signed values"),
        *("scale of another output", "border of zeros", "one rounding fewer"),
    ],
)
def test_a_broken_definition_is_noticed(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values half way between whole numbers are common: scales and biases are quarters."""
    name = "block with shortcut"
    made, x = layers(name), images(name, 300)
    if variant not in ("one rounding fewer", "scale of another output"):
        for part in made.parts():
            part.get_buffer("scale").fill_(0.25 / 64)
            part.get_buffer("bias").fill_(90.5)
            part.get_buffer("factor").fill_(0.25)
    loops = chain(made, name)
    assert torch.equal(loops(x), made(x))
    broken(monkeypatch, variant, made)
    assert not torch.equal(loops(x), made(x))


def test_rows_beside_another_image_keep_their_values() -> None:
    """Tiles read beyond the end of lines and rows; nothing of it may reach a result."""
    name = "linear layers"
    loops, x = chain(layers(name), name), images(name, 200)
    beside = x.clone()
    beside[1::2] = 1e9
    assert torch.equal(loops(beside)[::2], loops(x)[::2])
    assert not torch.equal(loops(beside)[1::2], loops(x)[1::2])


def test_what_does_not_fit_is_refused() -> None:
    made = layers("block with shortcut")
    loops = chain(made, "block with shortcut")
    with pytest.raises(KernelArgumentError, match=r"x must be float32 \(rows, 16, 16, 16\)"):
        loops(torch.zeros(2, 16, 16, 15))
    with pytest.raises(KernelArgumentError, match="x must be float32"):
        loops(torch.zeros(2, 16, 16, 16, dtype=torch.bfloat16))
    steps = [part.as_step() for part in made.parts()]
    wide = dataclasses.replace(steps[1], stride=2)
    floats = dataclasses.replace(steps[1], weight=steps[1].scale)
    for wrong, match in ((wide, "shortcut must be"), (floats, "weight must be int8")):
        with pytest.raises(KernelArgumentError, match=match):
            Int8Chain([steps[0], wrong], made.ends(), (16, 16, 16))


def test_sums_that_could_leave_32_bits_are_refused() -> None:
    shape, step = (1, 1, 66_400), "16 1x1 stride 1 pad 0x0 of 0"
    made = Int8Layers(shape[2], [step])
    weight = made.parts()[0].get_buffer("weight")
    for value, fits in ((126, True), (127, False)):
        weight.fill_(value)
        made.parts()[0].get_buffer("scale").fill_(255 / (66_400 * 255 * 126))
        made.get_buffer("zero").fill_(255.0)
        made.get_buffer("last_scale").fill_(1.0)
        x = torch.zeros(2, shape[2], 1, 1)
        if fits:
            loops = Int8Chain([part.as_step() for part in made.parts()], made.ends(), shape)
            assert torch.equal(loops(x), made(x))
            assert made(x).unique().tolist() == [255.0]
        else:
            with pytest.raises(KernelArgumentError, match="weight must have sums below 2147483648"):
                Int8Chain([part.as_step() for part in made.parts()], made.ends(), shape)
