"""Offsets beyond 32 bits: the last program of a huge grid does what that of a small one does.

Memory is sparse, and the interpreter runs the last program alone.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from triton.runtime import interpreter

from dualsmooth.engine.noise.integer import thresholds
from dualsmooth.kernels import ops, reference
from dualsmooth.kernels.cuda.stages import RESIDUAL, STAGES, launch
from dualsmooth.kernels.cuda.tiled_stem import TiledStem
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.launch import (
    AffineLaunch,
    ConvLaunch,
    PointwiseLaunch,
    StemLaunch,
    StemShape,
    VoteLaunch,
)
from dualsmooth.kernels.rows import Rows, seed_key
from dualsmooth.kernels.thresholds import Thresholds
from dualsmooth.kernels.triton import affine, conv, noise, pointwise, stem, vote
from tests.kernels.conftest import Edit, Sparse

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter")
HALF, FLOAT, INT = torch.float16, torch.float32, torch.int32
KEY = seed_key(7 | 3 << 40)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(autouse=True)
def last_program(sparse: Sparse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs the last program of a grid, and copies nothing; outputs are sparse."""
    run, builder = interpreter.GridExecutor.__call__, interpreter.interpreter_builder

    def last(self: Any, *args: Any, **options: Any) -> None:
        if not all(self.grid):
            return
        place = tuple(n - 1 for n in (*self.grid, 1, 1)[:3])
        self.grid = (1,)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                builder, "set_grid_idx", lambda *_: setattr(builder, "grid_idx", place), False
            )
            run(self, *args, **options)

    def empty(*shape: Any, dtype: torch.dtype = FLOAT, device: object = None) -> torch.Tensor:
        sizes = shape[0] if isinstance(shape[0], tuple) else shape
        return sparse(*sizes, dtype=dtype)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", last)
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *_: None)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "empty_like", lambda x: sparse(*x.shape, dtype=x.dtype))


def with_last(sparse: Sparse, values: torch.Tensor, rows: int) -> torch.Tensor:
    """Zeros but for the last row."""
    made = sparse(rows, *values.shape, dtype=values.dtype)
    made[-1] = values
    return made


def rows_of(sparse: Sparse, rows: int, slots: int) -> Rows:
    values = slots - 1, 0.5, 3, 77, 99, 0
    made = [sparse(rows, dtype=FLOAT if i == 1 else INT) for i in range(6)]
    for column, value in zip(made, values, strict=True):
        column[-1] = value
    return Rows(*made)


def noises(sparse: Sparse, rows: int, slots: int) -> torch.Tensor:
    images = with_last(sparse, normal(8, 16, 3), slots)
    batch = images, rows_of(sparse, rows, slots), KEY
    return ops.noise(*batch, dtype=HALF, backend="triton")


def integers(sparse: Sparse, rows: int, slots: int) -> torch.Tensor:
    images = with_last(sparse, normal(8, 16, 3).mul(40).abs().to(torch.uint8), slots)
    level, tables = sparse(rows, dtype=INT), Thresholds.pack([thresholds(0.25)])
    batch = images, rows_of(sparse, rows, slots), KEY, level, tables
    return ops.integer_noise(*batch, dtype=HALF, backend="triton")


def stems(design: str) -> Callable[[Sparse, int, int], torch.Tensor]:
    def run(sparse: Sparse, rows: int, slots: int) -> torch.Tensor:
        shape = StemShape(8, 16, 3, 16, 3, 1)
        images = with_last(sparse, normal(8, 16, 3), slots)
        constants = (torch.full((n,), 0.3) for n in (16, 3, 3))
        folded = fold_stem(normal(3, 3, 3, 16) / 6, *constants, dtype=HALF)
        tile = StemLaunch.tile(shape, 8) if design == "tile" else StemLaunch(design, 64)
        batch = images, rows_of(sparse, rows, slots), KEY, folded
        return ops.stem(*batch, backend="triton", launch=tile)

    return run


def convs(sparse: Sparse, rows: int, slots: int) -> torch.Tensor:
    x = with_last(sparse, normal(8, 8, 16).half(), rows)
    weight, bias = (normal(3, 3, 16, 32) / 12).half(), normal(32)
    residual = with_last(sparse, normal(8, 8, 32).half(), rows)
    options: Any = dict(backend="triton", launch=ConvLaunch(64))
    return ops.conv(x, weight, bias, residual=residual, **options)


def shortcuts(sparse: Sparse, rows: int, slots: int) -> torch.Tensor:
    x = with_last(sparse, normal(4, 4, 16).half(), rows)
    weight, bias = (normal(1, 1, 16, 16) / 4).half(), normal(16)
    source = with_last(sparse, normal(8, 8, 64).half(), rows)
    shortcut = source, (normal(64, 16) / 8).half()
    options: Any = dict(backend="triton", launch=ConvLaunch(16))
    return ops.conv(x, weight, bias, shortcut=shortcut, **options)


def pointwises(stride: int) -> Callable[[Sparse, int, int], torch.Tensor]:
    def run(sparse: Sparse, rows: int, slots: int) -> torch.Tensor:
        side = 8 // stride
        x = with_last(sparse, normal(8, 8, 64).half(), rows)
        residual = with_last(sparse, normal(side, side, 32).half(), rows)
        constants = (normal(64, 32) / 8).half(), normal(32)
        options: Any = dict(backend="triton", launch=PointwiseLaunch(16, 32, 64), stride=stride)
        return ops.pointwise(x, *constants, residual=residual, **options)

    return run


def affines(sparse: Sparse, rows: int, slots: int) -> torch.Tensor:
    x, other = (with_last(sparse, normal(8, 8, 64).half() + i, rows) for i in range(2))
    options: Any = dict(backend="triton", launch=AffineLaunch(256, 1), keep=True)
    total, y = ops.affine(x, normal(64), normal(64), other=other, bias=normal(64), **options)
    assert total is not None
    return torch.stack((total[-1], y[-1]))[None]


def votes(sparse: Sparse, rows: int, segments: int) -> torch.Tensor:
    classes = 4094  # as many as there may be
    features = with_last(sparse, 99 * normal(8, 8, 16).half(), rows)
    segment, counts = sparse(rows, dtype=INT), sparse(segments, classes + 1, dtype=torch.int64)
    segment[-1] = segments - 1
    constants = normal(16, classes).half(), normal(classes)
    ops.vote(features, *constants, segment, counts, backend="triton", launch=VoteLaunch(16, 1, 16))
    return counts


def logits(sparse: Sparse, rows: int, segments: int) -> torch.Tensor:
    classes = 4094
    scores = with_last(sparse, normal(classes), rows)
    segment, counts = sparse(rows, dtype=INT), sparse(segments, classes + 1, dtype=torch.int64)
    segment[-1] = segments - 1
    ops.vote_logits(scores, segment, counts, backend="triton")
    return counts


def mixed(sparse: Sparse, rows: int, segments: int) -> torch.Tensor:
    """Two segments in a tile, which is counted row by row."""
    classes = 4094
    scores = with_last(sparse, normal(classes), 16)
    segment, counts = sparse(16, dtype=INT), sparse(segments + 1, classes + 1, dtype=torch.int64)
    segment[-1] = segments
    ops.vote_logits(scores, segment, counts, backend="triton")
    return counts


Case = tuple[Callable[[Sparse, int, int], torch.Tensor], int, int]
MANY = (1 << 31) // 384 + 16
CASES: dict[str, Case] = {
    "noise": (noises, MANY, 1),
    "noise of a late slot": (noises, 1, MANY),
    "integer noise": (integers, MANY, 1),
    "integer noise of a late slot": (integers, 1, MANY),
    "tile": (stems("tile"), (1 << 20) + 1, 1),
    "tile of a late slot": (stems("tile"), 1, MANY),
    "stored": (stems("stored"), (1 << 22) + 1, 1),
    "conv": (convs, (1 << 21) + 1, 1),
    "shortcut": (shortcuts, (1 << 19) + 1, 1),
    "pointwise": (pointwises(1), (1 << 20) + 1, 1),
    "pointwise, strided": (pointwises(2), (1 << 22) + 1, 1),
    "affine": (affines, (1 << 19) + 1, 1),
    "vote": (votes, (1 << 21) + 1, 1),
    "vote in a late segment": (votes, 1, (1 << 20) + 1),
    "logits": (logits, (1 << 20) + 1, 1),
    "logits in a late segment": (logits, 1, (1 << 20) + 1),
    "logits of two segments": (mixed, 1, (1 << 20) + 1),
}
"""What runs with how many rows and slots, or segments: one of its offsets is beyond 32 bits."""


def agrees(sparse: Sparse, name: str) -> bool:
    run, *huge = CASES[name]
    near, far = (run(sparse, *counts)[-1] for counts in ((1, 1), huge))
    assert near.any()
    return torch.equal(near, far)


@pytest.mark.parametrize("name", CASES)
def test_the_last_program_of_a_huge_batch(name: str, sparse: Sparse) -> None:
    assert agrees(sparse, name)


WIDE = ".to(tl.int64)"
OFFSETS: dict[ModuleType, tuple[str | None, ...]] = {
    noise: ("noise", "noise of a late slot", "integer noise", None, "integer noise of a late slot"),
    stem: ("tile", "tile of a late slot", "stored"),
    conv: ("conv", "conv"),
    pointwise: ("pointwise", "pointwise"),
    affine: ("affine",),
    vote: ("vote in a late segment", None, "logits of two segments", "vote", "logits"),
}
"""What notices that a conversion is left out, in the order of a source; None: the level of integer
noise, of which there are 64, and counts.
"""
WRONG = [
    pytest.param(module, number, case, id=f"{module.__name__.rpartition('.')[2]} {number}")
    for module, cases in OFFSETS.items()
    for number, case in enumerate(cases)
    if case is not None
]


def test_every_conversion_is_in_the_table() -> None:
    found = {module: inspect.getsource(module).count(WIDE) for module in OFFSETS}
    assert found == {module: len(cases) for module, cases in OFFSETS.items()}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("module", "number", "case"), WRONG)
def test_offsets_of_32_bits_are_noticed(
    module: ModuleType, number: int, case: str, sparse: Sparse, edit: Edit
) -> None:
    source = inspect.getsource(module)
    parts = source.split(WIDE)
    before, behind = parts[: number + 1], parts[number + 1 :]
    edit(module, source, WIDE.join(before) + WIDE.join(behind))
    assert not agrees(sparse, case)


def test_the_largest_image_of_a_batch_of_one(sparse: Sparse) -> None:
    """As many programs as the second axis of a grid has, and not one more."""
    images, rows = sparse(1, 65_535, 256, 3, dtype=FLOAT), rows_of(sparse, 1, 1)
    block = 65_535 * 256 - 1
    counter = torch.tensor([block, 99, 77, 3])
    truth = 0.5 * reference.box_muller(reference.philox_words(counter, KEY))[:3]
    y = ops.noise(images, rows, KEY, backend="triton")
    assert float((y[0, -1, -1] - truth).abs().max()) <= 2e-6
    wide = sparse(1, 65_536, 256, 3, dtype=FLOAT)
    with pytest.raises(KernelArgumentError, match=r"^images must not be so large"):
        ops.noise(wide, rows, KEY, backend="triton")


def too_many_rows(sparse: Sparse) -> object:
    return Rows(*[sparse(1 << 31, dtype=INT)] * 6)


def too_many_pixels(sparse: Sparse) -> object:
    x = sparse(1 << 31, 1, 1, 16, dtype=HALF)
    return ops.conv(x, sparse(3, 3, 16, 16, dtype=HALF), sparse(16, dtype=FLOAT))


def too_many_pixels_of_a_product(sparse: Sparse) -> object:
    x = sparse(1 << 31, 1, 1, 16, dtype=HALF)
    return ops.pointwise(x, sparse(16, 16, dtype=HALF), sparse(16, dtype=FLOAT))


def too_many_products(sparse: Sparse) -> object:
    x, launch = sparse(1 << 30, 1, 1, 16, dtype=HALF), PointwiseLaunch(16, 16, 16)
    constants = sparse(16, 512, dtype=HALF), sparse(512, dtype=FLOAT)
    return ops.pointwise(x, *constants, backend="triton", launch=launch)


def too_many_weights(sparse: Sparse) -> object:
    weight, bias = sparse(1 << 19, 1 << 12, dtype=HALF), sparse(1 << 12, dtype=FLOAT)
    return ops.pointwise(sparse(1, 1, 1, 1 << 19, dtype=HALF), weight, bias)


def too_many_strips(sparse: Sparse) -> object:
    x = sparse(1 << 35, 1, dtype=HALF)
    return ops.affine(x, backend="triton", launch=AffineLaunch(16, 1))


def too_large_features(sparse: Sparse) -> None:
    features = sparse(1, 1 << 15, 1 << 12, 16, dtype=HALF)
    counts, head = sparse(1, 3, dtype=torch.int64), sparse(16, 2, dtype=HALF)
    ops.vote(features, head, sparse(2, dtype=FLOAT), sparse(1, dtype=INT), counts)


def too_many_borders(sparse: Sparse) -> object:
    constants = (torch.ones(n) for n in (64, 3, 3))
    return fold_stem(sparse(160, 160, 3, 64, dtype=FLOAT), *constants)


def too_tall(sparse: Sparse) -> object:
    images, rows = sparse(1, 65_536, 4, 3, dtype=FLOAT), rows_of(sparse, 1, 1)
    folded = fold_stem(normal(3, 3, 3, 16), *(torch.ones(n) for n in (16, 3, 3)), dtype=HALF)
    launch = StemLaunch.tile(StemShape(65_536, 4, 3, 16, 3, 1), 1)
    return ops.stem(images, rows, KEY, folded, backend="triton", launch=launch)


def too_many_outputs(sparse: Sparse) -> object:
    images, rows = sparse(1, 1, 1, 1, dtype=FLOAT), rows_of(sparse, 1, 1)
    outputs = 65_536 * 16
    constants = (torch.ones(n) for n in (outputs, 1, 1))
    folded = fold_stem(sparse(1, 1, 1, outputs, dtype=FLOAT), *constants, dtype=HALF)
    launch = StemLaunch("stored", 16, outputs=16)
    return ops.stem(images, rows, KEY, folded, backend="triton", launch=launch)


def too_many_blocks(sparse: Sparse) -> None:
    launch(RESIDUAL, STAGES[0], 1 << 31)


def too_many_entries(sparse: Sparse) -> None:
    launch(RESIDUAL, STAGES[0], 1 << 29, sparse(1, dtype=INT), 1 << 31)


@pytest.mark.parametrize(
    ("argument", "run"),
    [
        ("rows.slot", too_many_rows),
        ("x", too_many_pixels),
        ("x", too_many_pixels_of_a_product),
        ("x", too_many_products),
        ("weight", too_many_weights),
        ("x", too_many_strips),
        ("features", too_large_features),
        ("weight", too_many_borders),
        ("images", too_tall),
        ("images", too_many_outputs),
        ("rows", too_many_blocks),
        ("rows", too_many_entries),
    ],
)
def test_what_32_bits_cannot_count_is_refused_before_a_launch(
    argument: str, run: Callable[[Sparse], object], sparse: Sparse
) -> None:
    with pytest.raises(KernelArgumentError, match=f"^{argument} must .*; received"):
        run(sparse)


def test_a_tiled_stem_leaves_images_to_others_whose_outputs_32_bits_cannot_count() -> None:
    """Its offsets within an image are of 32 bits."""
    tall = StemShape(1 << 18, 256, 3, 64, 3, 1)
    assert TiledStem.choose(tall, 227 * 1024) is None
    assert TiledStem.choose(replace(tall, height=1 << 16), 227 * 1024) is not None


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_no_rows_are_no_votes(backend: str, sparse: Sparse) -> None:
    options: Any = dict(backend=backend)
    rows = Rows(*(sparse(0, dtype=FLOAT if i == 1 else INT) for i in range(6)))
    folded = fold_stem(normal(3, 3, 3, 16), *(torch.ones(n) for n in (16, 3, 3)), dtype=HALF)
    batch, counts = (normal(2, 8, 8, 3), rows, KEY), torch.zeros(3, 11, dtype=torch.int64)
    assert ops.noise(*batch, **options).shape == (0, 8, 8, 3)
    tables, grid = Thresholds.pack([thresholds(0.25)]), batch[0].to(torch.uint8)
    level = sparse(0, dtype=INT)
    assert len(ops.integer_noise(grid, rows, KEY, level, tables, **options)) == 0
    x = ops.stem(*batch, folded, **options)
    x = ops.conv(x, normal(3, 3, 16, 16).half(), normal(16), residual=x, **options)
    x = ops.pointwise(x, normal(16, 16).half(), normal(16), residual=x, **options)
    total, x = ops.affine(x, normal(16), normal(16), other=x, keep=True, **options)
    assert total is not None
    assert total.shape == x.shape == (0, 8, 8, 16)
    head = normal(16, 10).half(), normal(10)
    ops.vote(x, *head, rows.segment, counts, **options)
    ops.vote_logits(normal(0, 10), rows.segment, counts, **options)
    assert not counts.any()
