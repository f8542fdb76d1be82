"""The tiled stem: its own source on a processor, against the layers one by one."""

from typing import Any

import pytest
import torch

from dualsmooth.kernels import ops
from dualsmooth.kernels.cuda import tiled_stem as module
from dualsmooth.kernels.cuda.tiled_stem import SHAPES, TiledStem, pack_stem, tiled_stem
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.folding import FoldedStem, fold_stem
from dualsmooth.kernels.launch import StemShape
from dualsmooth.kernels.rows import Rows, seed_key

KEY = seed_key(7 | 3 << 40)
LIMIT = 0.01
"""Of the largest activation: noise, weights and results rounded to bf16."""

ROWS = Rows.pack(
    slot=[1, 0, 1], sigma=[0.5, 0.25, 1.0], stream=[3, 19, 3], image=[2**32 - 1, 5, 6],
    sample=[9, 8, 2**32 - 1], segment=[0] * 3,
)  # fmt: skip
CASES = {
    "7x7 in tiles": StemShape(22, 37, 3, 64, 7, 2),
    "3x3": StemShape(9, 17, 3, 64, 3, 1),
    "four channels": StemShape(16, 20, 4, 16, 3, 1),
    "5x5": StemShape(11, 21, 3, 32, 5, 2),
}


def stem(shape: StemShape) -> FoldedStem:
    generator = torch.Generator().manual_seed(3)
    size = shape.kernel, shape.kernel, shape.channels, shape.outputs
    weight = torch.randn(size, generator=generator) / (shape.kernel * shape.channels**0.5)
    bias = torch.randn(shape.outputs, generator=generator) / 10
    mean, std = (torch.full((shape.channels,), value) for value in (0.45, 0.25))
    return fold_stem(weight, bias, mean, std)


def gap(
    host: Any, monkeypatch: pytest.MonkeyPatch, shape: StemShape, tile: int, relu: bool = True
) -> float:
    monkeypatch.setattr(module, "launch", host.launch)
    found = TiledStem.choose(shape, 227 * 1024)
    assert found is not None
    sizes = found.height, found.width, found.outputs, found.kernel, found.stride
    choice, folded = TiledStem(*sizes, tile, found.tiles), stem(shape)
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(2, shape.height, shape.width, shape.channels, generator=generator)
    y = tiled_stem(images, ROWS, KEY, folded, pack_stem(folded), choice, relu=relu)
    truth = ops.stem(images, ROWS, KEY, folded, stride=shape.stride, relu=relu)
    return float((y.float() - truth.float()).abs().max() / truth.float().abs().max())


@pytest.mark.parametrize("name", CASES)
def test_the_source_equals_the_layers(
    host: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In tiles of three rows, the last of them partly outside; with the ReLU and without."""
    for relu, host.order in ((True, 1), (False, -1)):
        assert gap(host, monkeypatch, CASES[name], 3, relu) <= LIMIT


BROKEN = [
    ("const int y = top + i / PITCH", "const int y = top + 1 + i / PITCH"),
    ("before * (PAD + 1) + behind", "behind * (PAD + 1) + before"),
    ("j % 2 * 8 * STRIDE", "j % 2 * 8"),
    ("u32 word[4] = {static_cast<u32>(pixel)", "u32 word[4] = {static_cast<u32>(i)"),
    ("    __syncthreads();\n", ""),
    ("x >= 0 && x < WIDTH", "x >= 0"),
]


@pytest.mark.parametrize(("right", "wrong"), BROKEN)
def test_a_broken_kernel_is_noticed(
    host: Any, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    def edit(source: str) -> str:
        assert right in source
        return source.replace(right, wrong)

    host.edit = edit
    assert not gap(host, monkeypatch, CASES["5x5"], 3) <= LIMIT


def test_choices_fit_or_are_not_made() -> None:
    kib = 1024
    found = [TiledStem.choose(shape, 99 * kib) for shape in SHAPES]
    assert [f is not None and f.shared <= 99 * kib for f in found] == [True] * 3
    for shape in (
        StemShape(32, 32, 1, 16, 3, 1),
        StemShape(32, 32, 3, 16, 9, 1),
        StemShape(32, 32, 3, 512, 3, 1),
        StemShape(512, 4096, 3, 64, 7, 2),
    ):
        assert TiledStem.choose(shape, 227 * kib) is None
    choice, folded = found[1], stem(StemShape(32, 32, 3, 64, 5, 1))
    assert choice is not None
    with pytest.raises(KernelArgumentError, match="3 taps a side"):
        tiled_stem(torch.rand(2, 32, 32, 3), ROWS, KEY, folded, pack_stem(folded), choice)
