"""The tiled stem: its own source on a processor, against the layers one by one."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import max_pool2d

from dualsmooth.kernels import ops
from dualsmooth.kernels.cuda import tiled_stem as module
from dualsmooth.kernels.cuda.tiled_stem import SHAPES, TiledStem, pack_stem, tiled_stem
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.folding import FoldedStem, fold_stem
from dualsmooth.kernels.launch import StemShape
from dualsmooth.kernels.rows import Rows, seed_key
from tests.kernels.cuda.conftest import edited

KEY = seed_key(7 | 3 << 40)
LIMIT = 0.01
"""Of the largest activation: noise, weights and results rounded to bf16."""

ROWS = Rows.pack(
    slot=[1, 0, 1], sigma=[0.5, 0.25, 1.0], stream=[3, 19, 3], image=[2**32 - 1, 5, 6],
    sample=[9, 8, 2**32 - 1], segment=[0] * 3,
)  # fmt: skip
CASES = {
    "7x7 in tiles": (StemShape(22, 37, 3, 64, 7, 2), 0),
    "3x3": (StemShape(9, 17, 3, 64, 3, 1), 0),
    "four channels": (StemShape(16, 20, 4, 16, 3, 1), 0),
    "5x5": (StemShape(11, 21, 3, 32, 5, 2), 0),
    "7x7 and pooling": (StemShape(14, 33, 3, 64, 7, 2), 3),
    "3x3 and pooling": (StemShape(14, 17, 4, 16, 3, 1), 3),
    "pooling by two": (StemShape(15, 19, 3, 32, 3, 1), 2),
}


def stem(shape: StemShape) -> FoldedStem:
    generator = torch.Generator().manual_seed(3)
    size = shape.kernel, shape.kernel, shape.channels, shape.outputs
    weight = torch.randn(size, generator=generator) / (shape.kernel * shape.channels**0.5)
    bias = torch.randn(shape.outputs, generator=generator) / 10
    mean, std = (torch.full((shape.channels,), value) for value in (0.45, 0.25))
    return fold_stem(weight, bias, mean, std)


def outputs(
    host: Any,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[StemShape, int],
    relu: bool = True,
    broken: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the kernel, in tiles of three rows, and of the layers; ``broken`` is added to a pixel."""
    monkeypatch.setattr(module, "launch", host.launch)
    shape, pool = case
    found = TiledStem.choose(shape, 227 * 1024, pool)
    assert found is not None
    choice, folded = replace(found, tile=3), stem(shape)
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(2, shape.height, shape.width, shape.channels, generator=generator)
    images[0, 3, 9, 1] += broken
    y = tiled_stem(images, ROWS, KEY, folded, pack_stem(folded), choice, relu=relu)
    truth = ops.stem(images, ROWS, KEY, folded, stride=shape.stride, relu=relu)
    if pool:
        truth = max_pool2d(truth.permute(0, 3, 1, 2), pool, 2, pool // 3).permute(0, 2, 3, 1)
    return y.float(), truth.float()


def gap(
    host: Any, monkeypatch: pytest.MonkeyPatch, case: tuple[StemShape, int], relu: bool = True
) -> float:
    y, truth = outputs(host, monkeypatch, case, relu)
    return float((y - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_the_source_equals_the_layers(
    host: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In tiles of three rows, the last of them partly outside; with the ReLU and without."""
    for relu, host.order in ((True, 1), (False, -1)):
        assert gap(host, monkeypatch, CASES[name], relu) <= LIMIT


def test_pooling_keeps_what_is_not_a_number(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the layers have NaN; a fourth tap of weight zero takes it a pixel further."""
    for name in ("3x3 and pooling", "pooling by two"):
        y, truth = outputs(host, monkeypatch, CASES[name], broken=float("nan"))
        assert 0 < truth.isnan().sum() <= y.isnan().sum() < truth.numel() / 8
        assert not (truth.isnan() & ~y.isnan()).any()


@pytest.mark.parametrize("name", ["5x5", "3x3 and pooling", "pooling by two"])
def test_a_sanitizer_finds_nothing(host: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    host.checked = True
    assert gap(host, monkeypatch, CASES[name]) <= LIMIT
    assert not host.faults, host.faults


@pytest.mark.parametrize(
    ("right", "wrong", "kind"),
    [
        ("    __syncthreads();\n", "", "race"),
        ("i < LINES * PITCH;", "i < LINES * PITCH - 9;", "unwritten"),
        ("i < LINES * PITCH;", "i < LINES * PITCH + 9;", "outside"),
        ("noisy + i * 8)", "noisy + i * 8 + 4)", "misaligned"),
    ],
)
def test_a_sanitizer_finds_what_is_broken(
    host: Any, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, kind: str
) -> None:
    host.checked, host.edit = True, edited(right, wrong)
    gap(host, monkeypatch, CASES["5x5"])
    assert host.faults[kind], host.faults


BROKEN = [
    ("const int y = top + i / PITCH", "const int y = top + 1 + i / PITCH"),
    ("before * (PAD + 1) + behind", "behind * (PAD + 1) + before"),
    ("j % 2 * 8 * STRIDE", "j % 2 * 8"),
    ("u32 word[4] = {static_cast<u32>(pixel)", "u32 word[4] = {static_cast<u32>(i)"),
    ("    __syncthreads();\n", ""),
    ("x >= 0 && x < WIDTH", "x >= 0"),
]
POOLED = [
    ("? LEAST :", "? 0x41004100u :"),  # the border takes part
    ("conv_top = POOL ? 2 * top - EDGE", "conv_top = POOL ? 2 * top"),
    ("strip * ADVANCE - EDGE + lane / 4", "strip * ADVANCE + lane / 4"),
    ("(lane + 8) % 32", "(lane + 4) % 32"),
    ("lane / 4 == 6", "false"),
    ("? kept[half] :", "? 0xff80ff80u :"),  # the row that two outputs share is forgotten
    ("y >= 0 && y < CONV_HEIGHT && ", ""),
    ("pixel / 2 < STRIP", "true"),
    ("x >= 0 && x < CONV_WIDTH", "true"),
]


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        *(("5x5", *pair) for pair in BROKEN),
        *(("7x7 and pooling", *pair) for pair in POOLED[:3]),
        *(pytest.param("7x7 and pooling", *p, marks=pytest.mark.slow) for p in POOLED[3:]),
    ],
)
def test_a_broken_kernel_is_noticed(
    host: Any, monkeypatch: pytest.MonkeyPatch, name: str, right: str, wrong: str
) -> None:
    host.edit, host.order = edited(right, wrong), 1 if name == "5x5" else -1
    assert not gap(host, monkeypatch, CASES[name], relu=name == "5x5") <= LIMIT


def test_choices_fit_or_are_not_made() -> None:
    kib = 1024
    found = [TiledStem.choose(shape, 99 * kib, pool) for shape, pool in SHAPES]
    assert [f is not None and f.shared <= 99 * kib for f in found] == [True] * len(SHAPES)
    for shape in (
        StemShape(32, 32, 1, 16, 3, 1),
        StemShape(32, 32, 3, 16, 9, 1),
        StemShape(32, 32, 3, 512, 3, 1),
        StemShape(512, 4096, 3, 64, 7, 2),
    ):
        assert TiledStem.choose(shape, 227 * kib) is None
    choice, folded = found[-2], stem(StemShape(32, 32, 3, 64, 5, 1))
    assert choice is not None
    with pytest.raises(KernelArgumentError, match="3 taps a side"):
        tiled_stem(torch.rand(2, 32, 32, 3), ROWS, KEY, folded, pack_stem(folded), choice)
