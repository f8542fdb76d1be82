"""The on-chip residual stage: its own source on a processor, and what makes networks use it."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from dualsmooth.kernels.aot.__main__ import SHARED_LIMIT, build_stage, stage_builds
from dualsmooth.kernels.cuda.residual_stage import (
    StageOnChip,
    on_chip,
    pack_weights,
    residual_stage,
)
from dualsmooth.kernels.cuda.stages import (
    RESIDUAL,
    STAGES,
    Choice,
    Program,
    Stage,
    choose_stage,
    shared_memory,
)
from dualsmooth.kernels.resnet import FoldedBlock
from tests.kernels.cuda.conftest import edited, random_network

WIDE = (
    Stage(32, 32, pitch=34, images=1, warps=8, rows=8, tiles=2, resident=1),
    Stage(64, 16, pitch=18, images=1, warps=8, rows=8, tiles=1, resident=1),
    Stage(128, 8, pitch=10, images=2, warps=8, rows=8, tiles=1, resident=1),
)
"""Stages of wider networks, which the kernel has too."""


def problem(stage: Stage, rows: int, convs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(stage.channels)
    c = stage.channels
    x = torch.randn(rows, stage.size, stage.size, c, generator=generator).bfloat16()
    weight = torch.randn(convs, 3, 3, c, c, generator=generator) / (3 * c**0.5)
    return x, weight.bfloat16(), torch.randn(convs, c, generator=generator)


def folded(weight: torch.Tensor, bias: torch.Tensor) -> list[FoldedBlock]:
    return [
        FoldedBlock(weight[i], bias[i], weight[i + 1], bias[i + 1])
        for i in range(0, len(weight), 2)
    ]


def expected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    for block in folded(weight, bias):
        x = block(x, backend="reference")
    return x


def run_stage(host: Any, stage: Stage, rows: int, blocks: int = 1, order: int = 1) -> float:
    """Largest difference from the reference."""
    x, weight, bias = problem(stage, rows, 2 * blocks)
    out, host.order = torch.full_like(x, float("nan")), order
    host.launch(
        RESIDUAL, stage, stage.blocks(rows), x, out, pack_weights(weight), bias, rows, blocks
    )
    return float((out.float() - expected(x, weight, bias).float()).abs().max())


LIMIT = 0.07
"""Two bf16 units at magnitude 4 to 8."""


@pytest.mark.parametrize(
    "stage", [*STAGES, *(pytest.param(s, marks=pytest.mark.slow) for s in WIDE)], ids=str
)
def test_the_source_equals_the_reference_without_bank_conflicts(host: Any, stage: Stage) -> None:
    """Every image but the last of a block; warps in either order; two blocks in sequence."""
    for blocks, order in ((1, 1), (2, -1)):
        assert run_stage(host, stage, max(1, stage.images - 1), blocks, order) < blocks * LIMIT
    assert host.conflicts == 0


SMALL = Stage(64, 8, pitch=10, images=2, warps=8, rows=4, tiles=1, resident=1)


def test_the_closest_rows_and_a_block_left_partly_empty_are_right_too(host: Any) -> None:
    assert run_stage(host, SMALL, 3) < LIMIT
    assert host.conflicts == 0


BARRIER = "__syncthreads();"


@pytest.mark.parametrize("number", range(4))
def test_a_missing_barrier_is_noticed(host: Any, number: int) -> None:
    """After zeros, inputs, first or second convolutions; in one order of the warps or the other."""

    host.edit = edited(BARRIER, "", number)
    assert not max(run_stage(host, SMALL, 2, 2, order) for order in (1, -1)) < LIMIT


def test_a_sanitizer_finds_nothing(host: Any) -> None:
    host.checked = True
    assert run_stage(host, SMALL, 3, 2) < LIMIT
    assert not host.faults, host.faults


@pytest.mark.parametrize(
    ("right", "wrong", "kind"),
    [
        ("SIDE = SIZE + 2;", "SIDE = SIZE + 3;", "outside"),
        ("    clear(memory, 2 * BUFFER);\n", "", "unwritten"),
        (
            "(column * N + (chunk ^ swizzle)) * 16",
            "(column * N + (chunk ^ swizzle)) * 16 + 8",
            "misaligned",
        ),
        *((BARRIER, number, "race") for number in range(4)),
    ],
)
def test_a_sanitizer_finds_what_is_broken(
    host: Any, right: str, wrong: str | int, kind: str
) -> None:
    """Races in the usual order of warps, too, where the sums are right by luck."""

    number = wrong if isinstance(wrong, int) else None
    host.checked, host.edit = True, edited(right, "" if number is not None else str(wrong), number)
    run_stage(host, SMALL, 2)
    assert host.faults[kind], host.faults


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("LINE + place(column + 1, i", "LINE + place(column, i"),
        ("in, start + r * LINE", "in, start + r * (LINE - 16)"),
        ("* SIDE + top) * LINE;", "* SIDE + top + 1) * LINE;"),
        ("w[ky * 3 + kx]", "w[kx * 3 + ky]"),
    ],
)
def test_wrong_addresses_are_noticed(host: Any, right: str, wrong: str) -> None:
    host.edit = edited(right, wrong)
    assert not run_stage(host, SMALL, 2) < LIMIT


def test_a_missing_swizzle_is_noticed(host: Any) -> None:
    """By bank conflicts alone."""
    host.edit = edited("(chunk ^ swizzle)", "chunk")
    assert run_stage(host, SMALL, 2) < LIMIT
    assert host.conflicts > 0


def test_the_choice_fits_the_shared_memory() -> None:
    assert [choose_stage(32, 16, kib * 1024) for kib in (227, 163, 99, 16)] == [
        STAGES[1], STAGES[2], STAGES[2], None
    ]  # fmt: skip
    assert choose_stage(48, 16, 1 << 20) is None
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        assert choose_stage(channels, size, 99 * 1024) is not None


def test_identity_blocks_become_stages_of_the_same_function() -> None:
    """The blocks that change the shape stay; on a CPU the blocks run one by one."""
    plain = random_network()
    made = on_chip(plain, 32, 227 * 1024)
    assert made is not None
    kinds = [type(layer) for layer in made.blocks]
    assert kinds == [StageOnChip, FoldedBlock, StageOnChip, FoldedBlock, StageOnChip]
    stages = [layer for layer in made.blocks if isinstance(layer, StageOnChip)]
    assert [(len(s.blocks), s.stage) for s in stages] == [
        (2, STAGES[0]), (1, STAGES[1]), (1, STAGES[3])
    ]  # fmt: skip
    x = y = torch.rand(2, 32, 32, 16).bfloat16()
    for before in plain.blocks:
        x = before(x)
    for after in made.blocks:
        y = after(y)
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("dtype", "size", "shared"),
    [(torch.float32, 32, 1 << 20), (torch.bfloat16, 64, 1 << 20), (torch.bfloat16, 32, 0)],
)
def test_what_does_not_fit_is_not_taken(dtype: torch.dtype, size: int, shared: int) -> None:
    assert on_chip(random_network(dtype), size, shared) is None


BUILDS = [*((RESIDUAL, stage, 90) for stage in WIDE), *stage_builds()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "choice", "sm"), BUILDS, ids=[f"{p.name(c)} sm_{sm}" for p, c, sm in BUILDS]
)
def test_nvrtc_makes_no_spills(program: Program, choice: Choice, sm: int) -> None:
    """Compiled with CuPy's options, as on a device; that takes CuPy and NVRTC, but no device."""
    pytest.importorskip("cupy")
    machine = build_stage(program, choice, sm)
    assert machine.stack == machine.local == 0
    assert machine.mma.get("HMMA", 0) > 0
    assert machine.shared <= SHARED_LIMIT[sm]


@pytest.mark.slow
def test_a_spill_and_a_wrong_source_are_noticed() -> None:
    pytest.importorskip("cupy")
    assert build_stage(RESIDUAL, replace(STAGES[0], resident=4), 90).stack > 0
    with pytest.raises(RuntimeError, match=r"NVRTC failed: stage.cu.*undefined"):
        build_stage(Program("stage", "", ("stage",)), STAGES[0], 90)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("stage", [*STAGES, *WIDE], ids=str)
def test_on_a_device_and_in_a_graph(stage: Stage) -> None:
    """Two blocks; rows that leave the last thread block partly empty; the Triton path's bits."""
    if stage.shared > shared_memory(torch.device("cuda")):
        pytest.skip("too little shared memory, or no CuPy")
    x, weight, bias = problem(stage, 2 * stage.images + 1, 4)
    run = partial(residual_stage, x.cuda(), pack_weights(weight).cuda(), bias.cuda(), stage)
    first, graph = run(), torch.cuda.CUDAGraph()
    assert (first.cpu().float() - expected(x, weight, bias).float()).abs().max() < 0.15
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, first)
    y = x.cuda()
    for block in folded(weight.cuda(), bias.cuda()):
        y = block(y, backend="triton")
    assert torch.equal(first, y)
