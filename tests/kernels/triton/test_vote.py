"""Vote counts are exact: every segment, ties, non-finite logits, tails and padding rows."""

import math
from typing import Any

import pytest
import torch

from dualsmooth.kernels import ops
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import VoteLaunch

SMALL = VoteLaunch(rows=16, tiles=2, chunk=16)
SEGMENTS = {
    "one segment": lambda r: torch.zeros(r),
    "runs": lambda r: torch.arange(r) * 5 // r,
    "interleaved": lambda r: torch.arange(r) % 5,
    "padding tail": lambda r: torch.where(torch.arange(r) < r // 2, 3, -1),
    "all padding": lambda r: torch.full((r,), -1),
    "padding inside": lambda r: torch.where(torch.arange(r) % 3 == 0, -1, torch.arange(r) // 20),
}


def hand_counts(logits: torch.Tensor, segment: torch.Tensor, segments: int) -> torch.Tensor:
    """Row by row in plain Python, the slowest possible truth."""
    counts = [[0] * (logits.shape[1] + 1) for _ in range(segments)]
    for row, where in zip(logits.tolist(), segment.tolist(), strict=True):
        if where >= 0:
            finite = all(math.isfinite(v) for v in row)
            counts[where][row.index(max(row)) if finite else len(row)] += 1
    return torch.tensor(counts)


def awkward_logits(rows: int, classes: int) -> torch.Tensor:
    """Many ties, and rows with NaN or an infinity of either sign."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randint(-2, 3, (rows, classes), generator=generator).float()
    for start, value in ((1, math.nan), (3, math.inf), (5, -math.inf)):
        logits[start::11, start % classes] = value
    logits[7::11] = math.nan
    logits[8::11] = -math.inf
    return logits


@pytest.mark.parametrize(
    ("name", "classes"),
    [(name, 10) for name in SEGMENTS] + [("padding inside", n) for n in (1, 2, 31)],
)
def test_logits_counts(name: str, classes: int, device: torch.device) -> None:
    logits = awkward_logits(83, classes)
    segment = SEGMENTS[name](83).int()  # type: ignore[no-untyped-call]
    expected = hand_counts(logits, segment, 5)
    for backend in ("triton", "reference"):
        counts = torch.zeros(5, classes + 1, dtype=torch.int64, device=device)
        ops.vote_logits(
            logits.to(device), segment.to(device), counts, backend=backend, launch=SMALL
        )
        assert torch.equal(counts.cpu(), expected), backend
    assert int(expected.sum()) == int((segment >= 0).sum())


def test_many_classes_and_accumulation(device: torch.device) -> None:
    """Counts are added to what is there; the last class and the invalid entry stay apart."""
    logits = awkward_logits(40, 1000)
    logits[0] = 0
    logits[0, 999] = 1
    segment = torch.zeros(40, dtype=torch.int32)
    counts = torch.full((1, 1001), 7, dtype=torch.int64, device=device)
    ops.vote_logits(logits.to(device), segment.to(device), counts, backend="triton")
    assert torch.equal(counts.cpu(), hand_counts(logits, segment, 1) + 7)
    assert counts[0, 999] == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    ("size", "channels", "classes"), [(5, 32, 10), (3, 16, 2), (1, 32, 3)], ids=str
)
def test_head_equals_the_reference_away_from_ties(
    dtype: torch.dtype, size: int, channels: int, classes: int, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(size)
    features = torch.randn(75, size, size, channels, generator=generator).to(dtype)
    weight = torch.randn(channels, classes, generator=generator).to(dtype)
    bias = torch.randn(classes, generator=generator)
    exact = features.double().mean((1, 2)) @ weight.double() + bias.double()
    top = exact.topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) > (1e-4 if dtype == torch.float32 else 2e-2)
    assert clear.float().mean() > 0.9
    segment = torch.where(clear, torch.arange(75) // 20, -1).int()
    features[2, 0, 0, 3] = math.nan
    features[30, 0, 0, 0] = math.inf
    expected = hand_counts(
        torch.where(features.isfinite().all(-1).all(-1).all(-1)[:, None], exact, math.nan),
        segment,
        4,
    )
    for backend in ("triton", "reference"):
        counts = torch.zeros(4, classes + 1, dtype=torch.int64, device=device)
        f, w, b, where = (t.to(device) for t in (features, weight, bias, segment))
        choice = SMALL if backend == "triton" else None
        ops.vote(f, w, b, where, counts, backend=backend, launch=choice)
        assert torch.equal(counts.cpu(), expected), backend


@pytest.mark.parametrize("launch", [VoteLaunch(), VoteLaunch(16, 1, 16, 8)], ids=str)
def test_launch_choice_does_not_change_a_count(launch: VoteLaunch, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(90, 2, 2, 64, generator=generator).to(device)
    weight, bias = torch.randn(64, 10, generator=generator).to(device), torch.zeros(10)
    segment = (torch.arange(90) % 3).int().to(device)
    counts = [torch.zeros(3, 11, dtype=torch.int64, device=device) for _ in range(2)]
    for c, choice in zip(counts, (SMALL, launch), strict=True):
        ops.vote(features, weight, bias.to(device), segment, c, backend="triton", launch=choice)
    assert torch.equal(counts[0], counts[1])
    assert int(counts[0].sum()) == 90


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("features", dict(features=torch.zeros(4, 2, 2, 24))),
        ("features", dict(features=torch.zeros(4, 2, 16))),
        ("weight", dict(weight=torch.zeros(8, 3))),
        ("bias", dict(bias=torch.zeros(2))),
        ("segment", dict(segment=torch.tensor([0, 0, 0, 5], dtype=torch.int32))),
        ("counts", dict(counts=torch.zeros(1, 3, dtype=torch.int64))),
        ("counts", dict(counts=torch.zeros(1, 4, dtype=torch.int32))),
    ],
)
def test_bad_arguments_are_named(argument: str, change: dict[str, Any]) -> None:
    call: dict[str, Any] = dict(
        features=torch.zeros(4, 2, 2, 16),
        weight=torch.zeros(16, 3),
        bias=torch.zeros(3),
        segment=torch.zeros(4, dtype=torch.int32),
        counts=torch.zeros(1, 4, dtype=torch.int64),
    )
    with pytest.raises(KernelArgumentError, match=f"^{argument} "):
        ops.vote(**(call | change))
