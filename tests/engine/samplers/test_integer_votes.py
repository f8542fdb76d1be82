"""Both CPU samplers with integer noise."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy import stats

from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.noise.integer import integer_noise, thresholds, unit_of_grid
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.kernels.cpu import noise_votes

SHAPE, CLASSES = (5, 7, 3), 4
STEPS = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.int32)
SEEN: list[torch.Tensor] = []
"""What `Linear` was given, batch by batch."""


class Linear(torch.nn.Module):
    """Logits that are far apart; keeps its inputs, so it cannot be traced and fused."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        size = int(np.prod(SHAPE))
        self.weight = torch.nn.Parameter(torch.randn(CLASSES, size, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.isfinite().all()):
            SEEN.append(x.clone())
        return (x - 0.5).flatten(1).to(self.weight.dtype) @ self.weight.T


Make = Callable[..., Any]


@pytest.fixture
def sampler(kind: Make) -> Make:
    def make(network: torch.nn.Module | None = None, /, **options: Any) -> Any:
        defaults = {"seed": 7, "batch_size": 32, "threads": 1, "noise": "integer"}
        settings: dict[str, Any] = {"shape": SHAPE} | defaults | options
        shape = settings["shape"]
        made = kind({"m": network or Linear()}, {"m": CLASSES}, **settings)
        if shape == SHAPE:
            for slot in range(3):
                made.load(slot, unit_of_grid(STEPS[slot]))
        SEEN.clear()
        return made

    return make


def segment(slot: int, sigma: float, first: int, count: int, stream: int = 2) -> Segment:
    return Segment(slot, 100, sigma, stream, first, count)


SEGMENTS = [
    segment(0, 0.5, 0, 41),
    segment(1, 0.12, 5, 1, stream=19),
    segment(2, 0.12, 7, 77),
    segment(0, 0.25, 2**32 - 13, 13, stream=3),
]


def expected(part: Segment) -> np.ndarray:
    samples = np.arange(part.first, part.first + part.count)
    noise = integer_noise(7, part.image_id, part.stream, samples, SHAPE, part.sigma)
    return unit_of_grid(STEPS[part.slot] + noise)


def test_the_network_gets_the_specification_to_the_bit(sampler: Make) -> None:
    counts = sampler().count("m", SEGMENTS)
    got = torch.cat(SEEN)[: sum(s.count for s in SEGMENTS)].permute(0, 2, 3, 1).numpy()
    assert_array_equal(got, np.concatenate([expected(part) for part in SEGMENTS]))
    network = Linear()
    for row, part in zip(counts, SEGMENTS, strict=True):
        with torch.no_grad():
            logits = network(torch.from_numpy(expected(part)).permute(0, 3, 1, 2))
        assert_array_equal(row[:CLASSES], np.bincount(logits.argmax(1), minlength=CLASSES))


def test_bfloat16_rounds_the_grid_value_once(sampler: Make) -> None:
    sampler(precision="bf16").count("m", SEGMENTS[:1])
    want = torch.from_numpy(expected(SEGMENTS[0])).bfloat16()
    assert torch.equal(torch.cat(SEEN)[: len(want)].permute(0, 2, 3, 1), want)


def steps_seen(made: Any, slot: int) -> np.ndarray:
    SEEN.clear()
    made.count("m", [segment(slot, 0.2, 0, 64)])
    steps = (torch.cat(SEEN).double() * 255.0).round().numpy()
    return np.asarray(steps - np.moveaxis(STEPS[slot], 2, 0))


def test_noise_is_identical_for_all_images(sampler: Make) -> None:
    """In float arithmetic it is not: rounding x + sigma z depends on x."""
    made = sampler()
    assert_array_equal(steps_seen(made, 0), steps_seen(made, 1))
    assert_array_equal(steps_seen(made, 0), steps_seen(made, 2))
    floats = sampler(noise="gaussian")
    noise = []
    for slot in (0, 1):
        SEEN.clear()
        floats.count("m", [segment(slot, 0.2, 0, 64)])
        image = np.moveaxis(unit_of_grid(STEPS[slot]).astype(np.float64), 2, 0)
        noise.append(torch.cat(SEEN).double().numpy() - image)
    assert not np.array_equal(noise[0], noise[1])


def test_votes_do_not_depend_on_batch_mates_order_or_threads(
    sampler: Make, votes_stay: Callable[..., None]
) -> None:
    base = sampler().count("m", SEGMENTS)
    for threads in (1, 3):
        votes_stay(base, partial(sampler(threads=threads).count, "m"), SEGMENTS)


@pytest.mark.skipif(not noise_votes.available(), reason="the compiled loops were not built")
def test_samplers_agree() -> None:
    votes = []
    for kind in (TorchSampler, CpuSampler):
        made = kind({"m": Linear()}, {"m": CLASSES}, SHAPE, seed=7, threads=1, noise="integer")
        made.load(2, unit_of_grid(STEPS[2]))
        votes.append(made.count("m", [segment(2, 1.0, 0, 1500)])[0])
    assert_array_equal(votes[0], votes[1])


def test_bounds_on_a_half_space_with_known_probability(sampler: Make) -> None:
    """P(x + E >= 140 steps) is exact; L exceeds it as rarely as alpha says (false alarm 1e-6)."""

    class HalfSpace(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inside = (x[:, 0, 0, 0] * 255.0).round() >= 140
            return torch.stack([inside.float(), (~inside).float(), x[:, 0, 0, 0] * 0 - 1,
                                x[:, 0, 0, 0] * 0 - 1], 1)  # fmt: skip

    made = sampler(HalfSpace(), shape=(1, 1, 1), batch_size=4096)
    made.load(0, unit_of_grid(np.full((1, 1, 1), 150, np.int32)))
    table, images, n, alpha = thresholds(0.05), 3000, 100, 0.05
    p = 1.0 - float(table[len(table) // 2 - 11]) / 2.0**64  # E >= -10
    counts = made.count("m", [Segment(0, i, 0.05, 3, 0, n) for i in range(images)])
    wrong = sum(clopper_pearson_lower(int(k), n, alpha) > p for k in counts[:, 0])
    assert wrong <= stats.binom.ppf(1 - 1e-6, images, alpha)
    assert abs(counts[:, 0].sum() - images * n * p) < 5 * np.sqrt(images * n * p * (1 - p))


def test_images_off_the_grid_are_refused(sampler: Make) -> None:
    image = unit_of_grid(STEPS[0])
    image[1, 2, 0] += 2.0**-12
    with pytest.raises(ArgumentError, match=r"^images must lie on the grid .* for integer noise"):
        sampler().load(0, image)
    with pytest.raises(ArgumentError, match=r"^noise must be one of gaussian, integer"):
        sampler(noise="integral")
