"""The on-chip residual stage: its tile loops in NumPy, name for name with the CUDA source."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dualsmooth.kernels import ops
from dualsmooth.kernels.aot.__main__ import build_stage, nvcc
from dualsmooth.kernels.cuda.residual_stage import STAGES, Stage, pack_weights, residual_stage

WARPS, ROWS = 8, 8
LANE = np.arange(32)
Array = NDArray[np.float32]


def bfloat16(x: Array) -> Array:
    rounded: Array = torch.from_numpy(x).bfloat16().float().numpy()
    return rounded


@dataclass
class Emulator:
    """One thread block. Memory is an array of bf16 values, addressed by byte offset / 2."""

    stage: Stage
    swizzled: bool = True
    chunks: int = field(init=False)
    conflicts: int = 0

    def __post_init__(self) -> None:
        self.side = self.stage.size + 2
        self.chunks = self.stage.channels // 8
        self.ksteps = self.stage.channels // 16
        self.ntiles = 1 if self.stage.channels == 64 else 2
        self.warps_n = self.stage.channels // (8 * self.ntiles)
        self.warps_m = WARPS // self.warps_n
        self.strips = self.stage.images * self.stage.size // 16
        self.units = self.strips * self.stage.size // ROWS
        self.buffer = self.stage.images * self.side**2 * self.chunks * 16

    def chunk_offset(self, pixel: NDArray[np.int64], chunk: NDArray[np.int64]) -> NDArray[np.int64]:
        swizzle = (pixel // (8 // self.chunks)) % self.chunks if self.swizzled else 0
        return (pixel * self.chunks + (chunk ^ swizzle)) * 16

    def strip_pixel(self, strip: int, y: int, m: NDArray[np.int64], dx: int) -> NDArray[np.int64]:
        size = self.stage.size
        if size >= 16:
            image, x = np.full_like(m, strip // (size // 16)), strip % (size // 16) * 16 + m
        else:
            image, x = strip * 2 + m // 8, m % 8
        return (image * self.side + y + 1) * self.side + x + dx + 1

    def load_matrix(self, memory: Array, address: NDArray[np.int64]) -> Array:
        """ldmatrix.x4: registers [4, 32 lanes, 2]; lane l addresses row l % 8 of matrix l // 8."""
        rows = memory[address[:, None] // 2 + np.arange(8)].reshape(4, 8, 8)
        for eight in address.reshape(4, 8):
            self.conflicts += 8 - len(set(eight // 16 % 8))
        entry = (LANE % 4 * 2)[:, None] + [0, 1]
        registers: Array = rows[:, LANE // 4][:, LANE[:, None], entry]
        return registers

    def multiply(self, d: Array, a: Array, b: Array) -> None:
        """mma.m16n8k16 from fragments: d [32, 4], a [4, 32, 2], b [32, 2, 2]."""
        group, pair = LANE // 4, (LANE % 4 * 2)[:, None] + [0, 1]
        left, right = np.zeros((16, 16), np.float32), np.zeros((16, 8), np.float32)
        for j in range(4):
            left[(group + 8 * (j % 2))[:, None], pair + 8 * (j // 2)] = a[j]
        for j in range(2):
            right[pair + 8 * j, group[:, None]] = b[:, j]
        product = left @ right
        d[:, :2] += product[group[:, None], pair]
        d[:, 2:] += product[(group + 8)[:, None], pair]

    def finish_row(
        self, acc: Array, shift: Array, to: Array, written: NDArray[np.int64],
        residual: Array | None, strip: int, y: int, first_tile: int,
    ) -> None:  # fmt: skip
        for half in range(2):
            pixel = self.strip_pixel(strip, y, LANE // 4 + 8 * half, 0)
            for t in range(self.ntiles):
                chunk = np.full_like(pixel, first_tile + t)
                offset = self.chunk_offset(pixel, chunk) + LANE % 4 * 4
                at: NDArray[np.int64] = offset[:, None] // 2 + np.arange(2)
                value = acc[t, :, 2 * half : 2 * half + 2] + shift[t]
                if residual is not None:
                    value = value + residual[at]
                to[at] = bfloat16(np.maximum(value, 0).astype(np.float32))
                np.add.at(written, at, 1)

    def convolve(
        self, source: Array, to: Array, residual: Array | None, weights: Array, bias: Array
    ) -> None:
        written = np.zeros(to.size, np.int64)
        for warp in range(WARPS):
            first_tile = warp % self.warps_n * self.ntiles
            tiles = range(first_tile, first_tile + self.ntiles)
            shift = np.stack([bias[t * 8 + (LANE % 4 * 2)[:, None] + [0, 1]] for t in tiles])
            for unit in range(warp // self.warps_n, self.units, self.warps_m):
                strip, top = unit % self.strips, unit // self.strips * ROWS
                acc = np.zeros((3, self.ntiles, 32, 4), np.float32)
                for r in range(ROWS + 2):
                    for kx in range(3):
                        pixel = self.strip_pixel(strip, top + r - 1, LANE % 16, kx - 1)
                        for k in range(self.ksteps):
                            a = self.load_matrix(
                                source, self.chunk_offset(pixel, 2 * k + LANE // 16)
                            )
                            for ky in range(3):
                                if r - ky < 0 or r - ky >= ROWS:
                                    continue
                                for t in range(self.ntiles):
                                    fragment = weights[ky * 3 + kx, k, first_tile + t]
                                    self.multiply(acc[(r - ky) % 3, t], a, fragment)
                    if r < 2:
                        continue
                    self.finish_row(
                        acc[(r - 2) % 3], shift, to, written, residual, strip, top + r - 2,
                        first_tile,
                    )  # fmt: skip
                    acc[(r - 2) % 3] = 0
        assert written.max() == 1, "an output is written twice"
        assert written.sum() == self.stage.images * self.stage.size**2 * self.stage.channels

    def image_offsets(self) -> NDArray[np.int64]:
        """Element of each value [IMAGES, SIZE, SIZE, CHANNELS], as the copy loops index it."""
        i = np.arange(self.stage.images * self.stage.size**2 * self.chunks)
        per_image, row = self.stage.size**2 * self.chunks, self.stage.size * self.chunks
        image, y, px = i // per_image, i % per_image // row, i % row // self.chunks
        pixel = (image * self.side + y + 1) * self.side + px + 1
        offset = self.chunk_offset(pixel, i % self.chunks)
        return (offset[:, None] // 2 + np.arange(8)).ravel()

    def run(self, x: Array, packed: Array, bias: Array) -> Array:
        """x [rows <= IMAGES, SIZE, SIZE, CHANNELS]; packed and bias of 2 * blocks convolutions."""
        kept, inner = np.zeros((2, self.buffer // 2), np.float32)
        at = self.image_offsets()
        kept[at[: x.size]] = x.ravel()
        for block in range(0, len(packed), 2):
            self.convolve(kept, inner, None, packed[block], bias[block])
            self.convolve(inner, kept, kept, packed[block + 1], bias[block + 1])
        return kept[at[: x.size]].reshape(x.shape)


def problem(stage: Stage, rows: int, convs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(stage.channels)
    c = stage.channels
    x = torch.randn(rows, stage.size, stage.size, c, generator=generator).bfloat16()
    weight = torch.randn(convs, 3, 3, c, c, generator=generator) / (3 * c**0.5)
    return x, weight.bfloat16(), torch.randn(convs, c, generator=generator)


def expected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    for i in range(0, len(weight), 2):
        inner = ops.conv(x, weight[i], bias[i], backend="reference")
        x = ops.conv(inner, weight[i + 1], bias[i + 1], residual=x, backend="reference")
    return x


def emulate(stage: Stage, rows: int, blocks: int = 1, swizzled: bool = True) -> tuple[float, int]:
    """Largest difference from the reference, and shared-memory bank conflicts."""
    x, weight, bias = problem(stage, rows, 2 * blocks)
    emulator = Emulator(stage, swizzled)
    got = emulator.run(x.float().numpy(), pack_weights(weight).float().numpy(), bias.numpy())
    error = np.abs(got - expected(x, weight, bias).float().numpy()).max()
    return float(error), emulator.conflicts


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_tile_loops_equal_the_reference_without_bank_conflicts(stage: Stage) -> None:
    """Every image but the last of a block; each output written once; bf16 rounding apart."""
    rows = max(1, stage.images - 1)
    error, conflicts = emulate(stage, rows)
    assert error < 0.07  # two bf16 units at magnitude 4 to 8
    assert conflicts == 0


def test_without_the_swizzle_banks_conflict() -> None:
    error, conflicts = emulate(Stage(64, 8, 2), 2, swizzled=False)
    assert error < 0.07
    assert conflicts > 0


@pytest.mark.slow
def test_two_blocks_in_sequence() -> None:
    assert emulate(Stage(32, 16, 1), 1, blocks=2)[0] < 0.15


def test_wrong_packing_is_noticed() -> None:
    """The comparison has power: taps in transposed order fail it."""
    stage = Stage(64, 8, 2)
    x, weight, bias = problem(stage, 2, 2)
    packed = pack_weights(weight.transpose(1, 2)).float().numpy()
    got = Emulator(stage).run(x.float().numpy(), packed, bias.numpy())
    assert np.abs(got - expected(x, weight, bias).float().numpy()).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("sm", [80, 90])
@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_compiles_without_spills(stage: Stage, sm: int) -> None:
    if nvcc() is None:
        pytest.skip("nvcc is not installed")
    machine = build_stage(stage, sm)
    assert machine.stack == machine.local == 0
    assert machine.mma.get("HMMA", 0) >= 9 * (stage.channels // 16)
    assert stage.shared <= (163 if sm == 80 else 227) * 1024


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_on_a_device_and_in_a_graph(stage: Stage) -> None:
    """Two blocks; rows that leave the last thread block partly empty."""
    x, weight, bias = problem(stage, 2 * stage.images + 1, 4)
    inputs = [part.cuda() for part in (x, pack_weights(weight), bias)]
    error = (residual_stage(*inputs).cpu().float() - expected(x, weight, bias).float()).abs().max()
    assert error < 0.15
    first, graph = residual_stage(*inputs), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = residual_stage(*inputs)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, first)
