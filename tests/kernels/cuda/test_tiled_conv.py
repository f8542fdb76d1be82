"""The tiled 3x3 convolution: its own source on a processor, in bits against sums in order."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from dualsmooth.kernels import ops
from dualsmooth.kernels.aot.__main__ import SHARED_LIMIT, build_stage
from dualsmooth.kernels.cuda import tiled_conv as module
from dualsmooth.kernels.cuda.tiled_conv import CONV, TiledConv, pack_taps, tiled_conv
from dualsmooth.kernels.errors import KernelArgumentError
from tests.kernels.cuda.conftest import edited

KIB, NAN = 1024, float("nan")
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


def choice_of(
    height: int, width: int, channels: int, kib: int = 227, number: int = 0, **kinds: bool
) -> TiledConv:
    return TiledConv.candidates((height, width, channels), kib * KIB, **kinds)[number]


def parts_of(choice: TiledConv, rows: int, broken: float = 0.0) -> Parts:
    """Input, weight, bias and shortcut; ``broken`` is added to a value of the last image."""
    generator = torch.Generator().manual_seed(choice.width)
    c, size = choice.channels, (rows, choice.height, choice.width, choice.channels)
    x = torch.randn(size, generator=generator).bfloat16()
    weight = (torch.randn(3, 3, c, c, generator=generator) / (3 * c**0.5)).bfloat16()
    bias = torch.randn(c, generator=generator)
    if rows:
        x[-1, choice.height // 2, choice.width // 2, 5] += broken
    residual = torch.randn(size, generator=generator).bfloat16() if choice.adds else None
    return x, weight, bias, residual


def in_order(choice: TiledConv, parts: Parts) -> torch.Tensor:
    """The convolution, product by product: rows, columns and input channels, in float32."""
    x, weight, bias, residual = parts
    inside = pad(x.float(), (0, 0, 1, 1, 1, 1))
    total, (high, wide) = torch.zeros(x.shape), x.shape[1:3]
    for ky in range(3):
        for kx in range(3):
            for c in range(x.shape[3]):
                pixels = inside[:, ky : ky + high, kx : kx + wide, c : c + 1]
                total += pixels * weight[ky, kx, c].float()
    total += bias
    if residual is not None:
        total += residual.float()
    return (total.relu() if choice.relu else total).bfloat16()


def outputs(host: Any, choice: TiledConv, parts: Parts) -> torch.Tensor:
    """Of the kernel, in memory that is NaN around every tensor; NaN if that has been written."""

    def launch(program: Any, choice: Any, blocks: int, *arguments: torch.Tensor) -> None:
        walled = [torch.full((3, *a.shape), NAN, dtype=a.dtype) for a in arguments]
        for wide, argument in zip(walled, arguments, strict=True):
            wide[1] = argument
        walls = (walled[2][side].view(torch.int16) for side in (0, 2))
        kept = [wall.clone() for wall in walls]
        host.launch(program, choice, blocks, *(wide[1] for wide in walled))
        whole = all(map(torch.equal, kept, (walled[2][side].view(torch.int16) for side in (0, 2))))
        arguments[2].copy_(walled[2][1] if whole else torch.full_like(walled[2][1], NAN))

    x, weight, bias, residual = parts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "launch", launch)
        return tiled_conv(x, pack_taps(weight, choice), bias, choice, residual=residual)


def same(made: torch.Tensor, truth: torch.Tensor) -> bool:
    """In bits, but for those of what is not a number."""
    lost = truth.isnan()
    return torch.equal(made.isnan(), lost) and torch.equal(
        made.masked_fill(lost, 0).view(torch.int16), truth.masked_fill(lost, 0).view(torch.int16)
    )


def right(host: Any, choice: TiledConv, rows: int = 1, broken: float = 0.0) -> bool:
    parts = parts_of(choice, rows, broken)
    return same(outputs(host, choice, parts), in_order(choice, parts))


def marked(names: Iterable[str], quick: Iterable[str]) -> list[Any]:
    return [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in names]


SMALL = replace(choice_of(11, 13, 32, adds=True), tile=8, rows=4)
"""Two tiles, the last partly outside of the image, and rows that no unit fills."""

CASES = {
    "7 px, three images": (choice_of(7, 7, 64), 3),
    "8 px, no ReLU, 8 warps": (choice_of(8, 8, 64, number=1, relu=False), 2),
    "16 px, shortcut": (choice_of(16, 16, 64, adds=True), 1),
    "32 px, 32 channels, shortcut": (choice_of(32, 32, 32, adds=True), 1),
    "rows of 56, last tile partly outside": (choice_of(15, 56, 64), 1),
    "rows of 112, little shared memory": (choice_of(3, 112, 32, 99, adds=True, relu=False), 1),
}
WHOLE = {
    "28 px": (choice_of(28, 28, 64, number=1), 1),
    "56 px": (choice_of(56, 56, 64), 1),
    "56 px, shortcut, 8 warps": (choice_of(56, 56, 64, adds=True, number=1), 1),
    "56 px, little shared memory": (choice_of(56, 56, 64, 99, adds=True), 1),
    "56 px, 32 channels": (choice_of(56, 56, 32), 1),
}


@pytest.mark.parametrize("name", marked(CASES | WHOLE, CASES))
def test_the_source_equals_the_sum_in_its_order_without_bank_conflicts(
    host: Any, name: str
) -> None:
    choice, rows = (CASES | WHOLE)[name]
    host.order = 1 if rows > 1 else -1
    assert right(host, choice, rows)
    assert host.conflicts == 0


def test_the_order_of_the_sum_is_the_only_difference_from_the_reference() -> None:
    for choice in (SMALL, choice_of(8, 8, 64, relu=False)):
        x, weight, bias, residual = parts = parts_of(choice, 2)
        truth = ops.conv(x, weight, bias, residual=residual, relu=bool(choice.relu))
        gap = (in_order(choice, parts).float() - truth.float()).abs().max()
        assert gap <= 2.0**-8 * truth.float().abs().max()


@pytest.mark.parametrize("broken", [NAN, float("inf"), float("-inf")], ids=str)
def test_what_is_no_number_stays_so(host: Any, broken: float) -> None:
    parts = parts_of(SMALL, 2, broken)
    truth = in_order(SMALL, parts)
    assert not torch.isfinite(truth[1]).all()
    assert torch.isfinite(truth[0]).all()
    assert same(outputs(host, SMALL, parts), truth)


def test_no_rows_are_no_launch(host: Any) -> None:
    assert outputs(host, SMALL, parts_of(SMALL, 0)).shape == (0, 11, 13, 32)


BARRIER, WAIT = "        __syncthreads();\n", "    wait_copies();\n"


def test_a_sanitizer_finds_nothing(host: Any) -> None:
    host.checked = True
    for choice in (SMALL, choice_of(8, 8, 64)):
        assert right(host, choice, 2)
        assert not host.faults, host.faults


BROKEN = {
    "barrier before": edited(BARRIER, "", 0),
    "barrier behind": edited(BARRIER, "", 1),
    "wait": edited(WAIT, ""),
    "column shift": edited("place(lane % 8 + kx", "place(lane % 8"),
    "halves": edited("lane % 16 / 8 * (HALF * LINE)", "lane % 16 / 8 * LINE"),
    "left border": edited("x >= 0 && ", ""),
    "lower border": edited("y < HEIGHT && x", "x"),
    "last rows": edited("y + below < HEIGHT", "true"),
    "last columns": edited("x0 < WIDTH", "true"),
    "row": edited("in, r * LINE", "in, (r + 1) * LINE"),
    "tap": edited("w[ky * 3 + kx]", "w[kx * 3 + ky]"),
    "unit": edited("start += step", "start = 0"),
    "bias": edited("sum[t][2 * half] + shift[t][0]", "sum[t][2 * half] + shift[t][1]"),
    "shortcut": edited("shortcut += image * 4", "shortcut += 0"),
    "rest of a sum": edited("sum[t][2 * half] = 0.0f;", ""),
    "ReLU": edited("RELU ? pack_relu", "!RELU ? pack_relu"),
}
FAULTS = {
    "wait": "unwritten",
    "barrier before": "race",
    "barrier behind": "race",
    "pitch": "outside",
    "halo": "unwritten",
    "place": "misaligned",
}
BROKEN_PLACES = {
    "pitch": edited("PITCH = SPAN + 2", "PITCH = SPAN + 3"),
    "halo": edited("line < LINES", "line < LINES - 1"),
    "place": edited("(chunk ^ swizzle)) * 16", "(chunk ^ swizzle)) * 16 + 8"),
}
QUICK = ("wait", "barrier before", "halves", "lower border", "last columns", "shortcut")


@pytest.mark.parametrize("name", marked(FAULTS, QUICK[:2]))
def test_a_sanitizer_finds_what_is_broken(host: Any, name: str) -> None:
    host.checked, host.edit = True, (BROKEN | BROKEN_PLACES)[name]
    right(host, SMALL)
    assert host.faults[FAULTS[name]], host.faults


@pytest.mark.parametrize("name", marked(BROKEN, QUICK[2:]))
def test_a_broken_kernel_is_noticed(host: Any, name: str) -> None:
    """In one order of the warps or the other."""
    host.edit, found = BROKEN[name], []
    for host.order in (1, -1):
        found.append(right(host, SMALL, 2))
    assert not all(found)


def test_a_missing_swizzle_is_noticed(host: Any) -> None:
    """By bank conflicts alone."""
    parts = parts_of(SMALL, 1)
    host.edit = edited("(chunk ^ swizzle)", "chunk")
    assert same(outputs(host, SMALL, parts), in_order(SMALL, parts))
    assert host.conflicts > 0


KINDS = ((False, False), (False, True), (True, True))
"""Whether there are a shortcut and a ReLU: what networks have."""


@pytest.mark.slow
@pytest.mark.parametrize("side", [7, 16, 28, 112])
def test_no_size_spills(side: int) -> None:
    """The likely fastest choice; the ahead-of-time checks keep limits for all of `SHAPES`."""
    pytest.importorskip("cupy")
    for sm in (80, 90, 120):
        for channels, (adds, relu) in itertools.product((32, 64), KINDS):
            size, shared = (side, side, channels), SHARED_LIMIT[sm]
            choice = TiledConv.candidates(size, shared, adds=adds, relu=relu)[0]
            machine = build_stage(CONV, choice, sm)
            assert machine.stack == machine.local == 0, choice


def test_choices_fit_as_many_thread_blocks_as_they_name() -> None:
    sides = [(s, s) for s in (7, 8, 14, 16, 28, 32, 56, 112, 224)]
    for kib in (227, 163, 99):
        for height, width in [*sides, (30, 40)]:
            for channels in (32, 64):
                for made in TiledConv.candidates((height, width, channels), kib * KIB):
                    assert made.resident * (made.shared + KIB) <= (kib + 1) * KIB
                    assert -(-height // made.tile) * made.tile - height < 8
                    assert made.span % 8 == 0
                    assert made.span <= 56
    assert [(c.tile, c.rows, c.warps) for c in TiledConv.candidates((56, 56, 64), 227 * KIB)] == [
        (8, 4, 4), (8, 4, 8)
    ]  # fmt: skip
    assert choice_of(56, 56, 64, 99).tile == 4
    for channels, shared in ((128, 227 * KIB), (16, 227 * KIB), (64, 16 * KIB)):
        assert not TiledConv.candidates((56, 56, channels), shared)


def test_a_shortcut_is_there_as_in_the_choice(host: Any) -> None:
    x, weight, bias, _ = parts_of(SMALL, 1)
    with pytest.raises(KernelArgumentError, match="as in the choice"):
        outputs(host, SMALL, (x, weight, bias, None))
    with pytest.raises(KernelArgumentError, match="x must"):
        outputs(host, SMALL, (x[:, :5], weight, bias, x[:, :5]))
