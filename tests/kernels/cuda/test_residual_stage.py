"""The on-chip residual stage: its loops in NumPy, name for name with the CUDA source.

A thread block is run warp by warp from barrier to barrier, in any order of the warps.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dualsmooth.kernels.aot.__main__ import build_stage, nvcc
from dualsmooth.kernels.cuda.residual_stage import (
    STAGES,
    Stage,
    StageOnChip,
    choose_stage,
    on_chip,
    pack_weights,
    residual_stage,
    shared_memory,
)
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet

LANE = np.arange(32)
PAIR = np.arange(2)
Array = NDArray[np.float32]
Index = NDArray[np.int64]
WIDE = (
    Stage(32, 32, pitch=34, images=1, warps=8, rows=8, tiles=2, resident=1),
    Stage(64, 16, pitch=18, images=1, warps=8, rows=8, tiles=1, resident=1),
    Stage(128, 8, pitch=10, images=2, warps=8, rows=8, tiles=1, resident=1),
)
"""Stages of wider networks, which the kernel has too."""


def bfloat16(x: Array) -> Array:
    rounded: Array = torch.from_numpy(x).bfloat16().float().numpy()
    return rounded


class Emulator:
    """One thread block. Memory is an array of bf16 values, addressed by byte offset / 2."""

    barriers: tuple[int, ...] = (0, 1, 2, 3)
    """After zeros, inputs, first and second convolutions."""
    swizzled = True
    halo = 1
    """Column at which an image begins."""
    leap = 0
    """Bytes added to the way from row to row where inputs are read."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.size, self.side = stage, stage.size, stage.size + 2
        self.chunks, self.ksteps = stage.channels // 8, stage.channels // 16
        self.spread = min(self.chunks, 8)
        self.warps_n = min(self.chunks // stage.tiles, stage.warps)
        self.warps_m = stage.warps // self.warps_n
        self.passes = self.chunks // (stage.tiles * self.warps_n)
        self.strips = stage.images * self.size // 16
        self.units = self.strips * self.size // stage.rows
        self.pixel = self.chunks * 16
        self.line = stage.pitch * self.pixel
        self.buffer = stage.images * self.side * self.line
        self.image = self.size**2 * self.chunks
        self.conflicts = 0
        beyond = 4096
        self.memory = np.full(self.buffer + beyond, np.nan, np.float32)  # two bytes a value
        assert 2 * self.buffer == stage.shared

    def place(self, column: Index, chunk: Index) -> Index:
        swizzle = column // (8 // self.spread) % self.spread if self.swizzled else 0
        return (column * self.chunks + (chunk ^ swizzle)) * 16

    def unit_start(self, unit: Index) -> Index:
        strip, top = unit % self.strips, unit // self.strips * self.stage.rows
        if self.size < 16:
            return (strip * 2 * self.side + top) * self.line
        across = self.size // 16
        return (strip // across * self.side + top) * self.line + strip % across * 16 * self.pixel

    def lane_column(self, m: Index) -> Index:
        return m if self.size >= 16 else m % 8

    def lane_image(self, m: Index) -> Index:
        return 0 * m if self.size >= 16 else m // 8 * self.side * self.line

    def image_chunk(self, i: Index) -> Index:
        row = self.size * self.chunks
        y, column = i % self.image // row, i % row // self.chunks
        start = (i // self.image * self.side + y + 1) * self.line
        return start + self.place(column + self.halo, i % self.chunks)

    def load_matrix(self, address: Index) -> Array:
        """ldmatrix.x4 of every unit: [units, 4 registers, 32 lanes, 2].

        Lane l addresses row l % 8 of matrix l // 8.
        """
        rows = self.memory[address[..., None] // 2 + np.arange(8)].reshape(-1, 4, 8, 8)
        banks = np.sort(address.reshape(-1, 4, 8) // 16 % 8)
        self.conflicts += int((np.diff(banks) == 0).sum())
        registers: Array = rows[:, :, LANE // 4][..., LANE[:, None], (LANE % 4 * 2)[:, None] + PAIR]
        return registers

    def multiply(self, d: Array, a: Array, b: Array) -> None:
        """mma.m16n8k16 from fragments: d [units, 32, 4], a [units, 4, 32, 2], b [32, 2, 2]."""
        group, pair = LANE // 4, (LANE % 4 * 2)[:, None] + PAIR
        left, right = np.zeros((len(d), 16, 16), np.float32), np.zeros((16, 8), np.float32)
        for j in range(4):
            left[:, (group + 8 * (j % 2))[:, None], pair + 8 * (j // 2)] = a[:, j]
        for j in range(2):
            right[pair + 8 * j, group[:, None]] = b[:, j]
        product = left @ right
        d[..., :2] += product[:, group[:, None], pair]
        d[..., 2:] += product[:, (group + 8)[:, None], pair]

    def convolve(
        self, residual: bool, source: int, to: int, warp: int, number: int,
        weights: Array, bias: Array,
    ) -> None:  # fmt: skip
        rows, tiles = self.stage.rows, self.stage.tiles
        first_tile = (number * self.warps_n + warp % self.warps_n) * tiles
        m = LANE % 16
        base = source + self.lane_image(m)
        start = self.unit_start(np.arange(warp // self.warps_n, self.units, self.warps_m))[:, None]
        acc = np.zeros((3, tiles, len(start), 32, 4), np.float32)
        for r in range(rows + 2):
            for kx in range(3):
                for k in range(self.ksteps):
                    at = base + self.place(self.lane_column(m) + kx, 2 * k + LANE // 16)
                    a = self.load_matrix(at + start + r * (self.line + self.leap))
                    for ky in range(3):
                        if r - ky < 0 or r - ky >= rows:
                            continue
                        for t in range(tiles):
                            fragment = weights[ky * 3 + kx, k, first_tile + t]
                            self.multiply(acc[(r - ky) % 3, t], a, fragment)
            if r < 2:
                continue
            for half in range(2):
                p = LANE // 4 + 8 * half
                for t in range(tiles):
                    out = to + self.lane_image(p) + self.line + LANE % 4 * 4
                    out = out + self.place(self.lane_column(p) + self.halo, first_tile + t + 0 * p)
                    target = (out + start + (r - 2) * self.line)[..., None] // 2 + PAIR
                    shift = bias[(first_tile + t) * 8 + (LANE % 4 * 2)[:, None] + PAIR]
                    value = acc[(r - 2) % 3, t, ..., 2 * half : 2 * half + 2] + shift
                    if residual:
                        value = value + self.memory[target]
                    self.memory[target] = bfloat16(np.maximum(value, 0).astype(np.float32))
            acc[(r - 2) % 3] = 0

    def warp(self, warp: int, x: Array, out: Array, packed: Array, bias: Array) -> Iterator[int]:
        """One warp; yields at every barrier."""
        threads = self.stage.warps * 32

        def mine(count: int) -> Index:
            every: Index = np.arange(count)
            index: Index = every[every % threads // 32 == warp]
            return index

        def values(offset: Index) -> Index:
            index: Index = offset[:, None] // 2 + np.arange(8)
            return index

        self.memory[values(16 * mine(2 * self.buffer // 16))] = 0
        yield 0
        i = mine(self.stage.images * self.image)
        i = i[i // self.image < len(x)]
        self.memory[values(self.image_chunk(i))] = x.reshape(-1, 8)[i]
        yield 1
        for conv in range(0, len(packed), 2):
            for number in range(self.passes):
                self.convolve(False, 0, self.buffer, warp, number, packed[conv], bias[conv])
            yield 2
            for number in range(self.passes):
                second = packed[conv + 1], bias[conv + 1]
                self.convolve(True, self.buffer, 0, warp, number, *second)
            yield 3
        out.reshape(-1, 8)[i] = self.memory[values(self.image_chunk(i))]

    def run(self, x: Array, packed: Array, bias: Array, order: int = 1) -> Array:
        """x [rows <= IMAGES, SIZE, SIZE, CHANNELS]; order -1 runs the last warp first."""
        out = np.full_like(x, np.nan)
        waiting = [self.warp(w, x, out, packed, bias) for w in range(self.stage.warps)][::order]
        while waiting:
            waiting = [w for w in waiting if any(b in self.barriers for b in w)]
        return out


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


def emulate(
    kind: type[Emulator], stage: Stage, rows: int, blocks: int = 1, order: int = 1
) -> tuple[float, int]:
    """Largest difference from the reference, and shared-memory bank conflicts."""
    x, weight, bias = problem(stage, rows, 2 * blocks)
    emulator = kind(stage)
    packed = pack_weights(weight).float().numpy()
    got = emulator.run(x.float().numpy(), packed, bias.numpy(), order)
    error = np.abs(got - expected(x, weight, bias).float().numpy()).max()
    return float(error), emulator.conflicts


LIMIT = 0.07
"""Two bf16 units at magnitude 4 to 8."""


@pytest.mark.parametrize("order", [-1, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "stage", [*STAGES, *(pytest.param(s, marks=pytest.mark.slow) for s in WIDE)], ids=str
)
def test_loops_equal_the_reference_without_bank_conflicts(stage: Stage, order: int) -> None:
    """Every image but the last of a block; bf16 rounding apart."""
    error, conflicts = emulate(Emulator, stage, max(1, stage.images - 1), order=order)
    assert error < LIMIT
    assert conflicts == 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_two_blocks_in_sequence(stage: Stage) -> None:
    assert emulate(Emulator, stage, stage.images, blocks=2, order=-1)[0] < 2 * LIMIT


SMALL = Stage(64, 8, pitch=10, images=2, warps=8, rows=4, tiles=1, resident=1)


def test_the_closest_rows_are_right_too() -> None:
    error, conflicts = emulate(Emulator, SMALL, 2)
    assert error < LIMIT
    assert conflicts == 0


@pytest.mark.parametrize("barrier", range(4))
def test_a_missing_barrier_is_noticed(barrier: int) -> None:
    """In one order of the warps or the other."""

    class Missing(Emulator):
        barriers = tuple(b for b in range(4) if b != barrier)

    errors = [emulate(Missing, SMALL, 2, order=order)[0] for order in (1, -1)]
    assert not max(errors) < LIMIT


class WrongHalo(Emulator):
    halo = 0


class WrongLine(Emulator):
    leap = -16


class NoSwizzle(Emulator):
    swizzled = False


def test_wrong_addresses_are_noticed() -> None:
    for kind, stage in (
        (WrongHalo, SMALL),
        (WrongLine, SMALL),
        (Emulator, replace(SMALL, pitch=SMALL.size)),
    ):
        assert not emulate(kind, stage, 2)[0] < LIMIT, kind
    error, conflicts = emulate(NoSwizzle, SMALL, 2)
    assert error < LIMIT
    assert conflicts > 0


def test_wrong_packing_is_noticed() -> None:
    """Taps in transposed order."""
    x, weight, bias = problem(SMALL, 2, 2)
    packed = pack_weights(weight.transpose(1, 2)).float().numpy()
    got = Emulator(SMALL).run(x.float().numpy(), packed, bias.numpy())
    assert np.abs(got - expected(x, weight, bias).float().numpy()).max() > 1


def test_the_choice_fits_the_shared_memory() -> None:
    assert [choose_stage(32, 16, kib * 1024) for kib in (227, 163, 99, 16)] == [
        STAGES[1], STAGES[2], STAGES[2], None
    ]  # fmt: skip
    assert choose_stage(48, 16, 1 << 20) is None
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        assert choose_stage(channels, size, 99 * 1024) is not None


def network(dtype: torch.dtype, blocks: int = 2) -> FoldedResNet:
    """Stages of 16, 32 and 64 channels."""
    generator = torch.Generator().manual_seed(3)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    layers = []
    for cin, cout in ((16, 16), (16, 32), (32, 64)):
        for i in range(blocks):
            new, first = i == 0 and cin != cout, cin if i == 0 else cout
            projection = normal(cin, cout).to(dtype) if new else None
            weights = [(normal(3, 3, c, cout) / (3 * c**0.5)).to(dtype) for c in (first, cout)]
            parts = (weights[0], normal(cout), weights[1], normal(cout))
            layers.append(FoldedBlock(*parts, projection, 2 if new else 1))
    parts = (normal(3, 3, 3, 16), normal(16), torch.zeros(3), torch.ones(3))
    return FoldedResNet(
        fold_stem(*parts, dtype=dtype), tuple(layers), normal(64, 10), torch.zeros(10)
    )


def test_identity_blocks_become_stages_of_the_same_function() -> None:
    """The blocks that change the shape stay; on a CPU the blocks run one by one."""
    plain = network(torch.bfloat16)
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
    assert on_chip(network(dtype), size, shared) is None


@pytest.mark.slow
@pytest.mark.parametrize("stage", WIDE, ids=str)
def test_wider_stages_compile_without_spills(stage: Stage) -> None:
    if nvcc() is None:
        pytest.skip("nvcc is not installed")
    machine = build_stage(stage, 90)
    assert machine.stack == machine.local == 0
    assert machine.mma.get("HMMA", 0) >= 9 * (stage.channels // 16)
    assert stage.shared <= 227 * 1024


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
