"""Offsets beyond 32 bits: the last thread block of a huge grid does what the first of a small does.

Memory is sparse, so that only what one block reads and writes is there.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dualsmooth.kernels.cuda.residual_stage import pack_weights
from dualsmooth.kernels.cuda.stages import INNER, NOISY, RESIDUAL, STAGES, VOTING, Program
from dualsmooth.kernels.cuda.tiled_conv import CONV, TiledConv, pack_taps
from dualsmooth.kernels.cuda.tiled_stem import TILED, TiledStem
from dualsmooth.kernels.launch import StemShape
from dualsmooth.kernels.rows import seed_key
from tests.kernels.conftest import Sparse
from tests.kernels.cuda.conftest import edited

BF16, INT = torch.bfloat16, torch.int32
ONE, TWO, THREE = STAGES[0], STAGES[2], STAGES[4]
FIRST = "const long long first = static_cast<long long>(blockIdx.x) * IMAGES"
NARROW = "const int first = blockIdx.x * IMAGES"
PASSED, PASSED_NARROW = "long long first, int rows", "int first, int rows"
Arguments = Callable[[Sparse, int, int], list[Any]]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def weights(convolutions: int, inputs: int, outputs: int, size: int = 3) -> torch.Tensor:
    return pack_weights(normal(convolutions, size, size, inputs, outputs) / (size * inputs**0.5))


def columns(sparse: Sparse, rows: int, slots: int) -> list[Any]:
    """Key and columns, of which the last row reads the last slot."""
    made = [sparse(rows, dtype=torch.float32 if i == 1 else INT) for i in range(5)]
    for column, value in zip(made, (slots - 1, 0.5, 3, 77, 99), strict=True):
        column[-1] = value
    return [seed_key(7 | 3 << 40), *made]


def residual(sparse: Sparse, rows: int, slots: int) -> list[Any]:
    x, out = (sparse(rows, 32, 32, 16, dtype=BF16) for _ in range(2))
    x[-1] = normal(32, 32, 16)
    return [x, out, weights(2, 16, 16), normal(2, 16), rows, 1]


def inner(sparse: Sparse, rows: int, slots: int) -> list[Any]:
    x, out = sparse(rows, 16, 16, 32, dtype=BF16), sparse(rows, 8, 8, 64, dtype=BF16)
    x[-1] = normal(16, 16, 32)
    strided = [weights(1, a, 64, k).flatten() for a, k in ((32, 3), (64, 3), (32, 1))]
    constants = weights(2, 32, 32), normal(2, 32), torch.cat(strided), normal(2, 64)
    return [x, *constants, out, rows, 1]


def voting(sparse: Sparse, rows: int, slots: int) -> list[Any]:
    classes = 1 << 10
    x, out = sparse(rows, 8, 8, 64, dtype=BF16), sparse(rows, classes, dtype=torch.float32)
    segment, counts = sparse(rows, dtype=INT), sparse(slots, classes + 1, dtype=torch.int64)
    x[-1], segment[-1] = normal(8, 8, 64), slots - 1
    head = normal(64, classes), normal(classes), out, segment, counts
    return [x, weights(2, 64, 64), normal(2, 64), *head, rows, 1, slots, classes]


def noisy(sparse: Sparse, rows: int, slots: int) -> list[Any]:
    images, out = (
        sparse(slots, 32, 32, 3, dtype=torch.float32),
        sparse(rows, 16, 16, 32, dtype=BF16),
    )
    images[-1] = normal(32, 32, 3)
    strided = [weights(1, a, 32, k).flatten() for a, k in ((16, 3), (32, 3), (16, 1))]
    stem = pack_weights(normal(1, 3, 1, 16, 16) / 6), normal(16, 16)
    constants = weights(2, 16, 16), normal(2, 16), torch.cat(strided), normal(2, 32)
    return [images, *columns(sparse, rows, slots), *stem, *constants, out, rows, 1, 3]


def tiled(sparse: Sparse, rows: int, slots: int) -> list[Any]:
    images, out = (
        sparse(slots, 32, 32, 3, dtype=torch.float32),
        sparse(rows, 32, 32, 16, dtype=BF16),
    )
    images[-1] = normal(32, 32, 3)
    stem = pack_weights(normal(1, 3, 1, 16, 16) / 6), normal(16, 16)
    return [images, *columns(sparse, rows, slots), *stem, out, 3, 1]


def conv(sparse: Sparse, rows: int, slots: int) -> list[Any]:
    x, other, out = (sparse(rows, 8, 8, 64, dtype=BF16) for _ in range(3))
    x[-1], other[-1] = normal(8, 8, 64), normal(8, 8, 64) + 1
    packed = pack_taps(normal(3, 3, 64, 64) / 24, TAPS)
    return [x, other, out, packed, normal(64)]


TAPS = TiledConv.candidates((8, 8, 64), 227 * 1024, adds=True)[0]
STEM = TiledStem.choose(StemShape(32, 32, 3, 16, 3, 1), 227 * 1024)
SLOT = "static_cast<long long>(slot[row])"
CASES: dict[str, tuple[Program, Any, Arguments, int, int, dict[str, str]]] = {
    "residual": (
        RESIDUAL, ONE, residual, (1 << 20) + 1, 1, {FIRST: NARROW, PASSED: PASSED_NARROW},
    ),
    "inner": (INNER, TWO, inner, (1 << 21) + 1, 1, {PASSED: PASSED_NARROW}),
    "voting": (
        VOTING, THREE, voting, (1 << 22) + 1, 1 << 22,
        {PASSED: PASSED_NARROW, "static_cast<long long>(where)": "where",
         "const long long row = first + image": "const int row = first + image"},
    ),
    "noisy": (
        NOISY, ONE, noisy, (1 << 19) + 1, 700_000, {PASSED: PASSED_NARROW, SLOT: "slot[row]"},
    ),
    "tiled": (
        TILED, STEM, tiled, (1 << 18) + 1, 700_000,
        {"const long long row = blockIdx": "const int row = blockIdx", SLOT: "slot[row]"},
    ),
    "conv": (
        CONV, TAPS, conv, (1 << 20) + 1, 1,
        {"long long image = static_cast<long long>(blockIdx.x)": "int image = blockIdx.x"},
    ),
}  # fmt: skip
"""Kernel, choice, arguments, rows and slots (or segments); the 32-bit forms of its offsets."""


def agrees(host: Any, sparse: Sparse, name: str) -> bool:
    """Whether everything that has rows ends with the same one, slots and segments aside."""
    program, choice, make, rows, slots, _ = CASES[name]
    found, host.last = list[list[torch.Tensor]](), True
    for count, held in ((1, 1), (rows, slots)):
        arguments = make(sparse, count, held)
        blocks = count if program in (TILED, CONV) else choice.blocks(count)
        host.launch(program, choice, blocks, *arguments)
        tensors = [a for a in arguments if isinstance(a, torch.Tensor) and a.dtype != INT]
        found.append([tensor[-1].clone() for tensor in tensors])
    assert all(bool(last.any()) for last in found[0])
    return all(map(torch.equal, *found))


@pytest.mark.parametrize("name", CASES)
def test_the_last_block_of_a_huge_batch(host: Any, sparse: Sparse, name: str) -> None:
    assert agrees(host, sparse, name)


WRONG = [
    pytest.param(name, old, new, marks=[] if name in ("residual", "tiled") else pytest.mark.slow)
    for name, case in CASES.items()
    for old, new in case[5].items()
]


@pytest.mark.parametrize(("name", "old", "new"), WRONG)
def test_offsets_of_32_bits_are_noticed(
    host: Any, sparse: Sparse, name: str, old: str, new: str
) -> None:
    host.edit = edited(old, new)
    assert not agrees(host, sparse, name)
