"""No two values of a run share a counter: what was asked for can be read off counter and lane."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dualsmooth.engine.draws import LEVELS, STREAM_VERSION, Draw, Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.cascade import CascadeSmoothing
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.variational import VariationalSmoothing
from dualsmooth.engine.noise import stream
from dualsmooth.engine.noise.integer import integer_noise
from dualsmooth.engine.noise.stream import blocks_per_image, standard_normal
from dualsmooth.kernels.cpu.noise_votes import SEGMENT, NoisyRows, available

SHAPES = [(1, 1, 1), (2, 3, 1), (3, 1, 2), (2, 2, 3), (1, 2, 4), (1, 1, 5)]


def whole(bits: int) -> st.SearchStrategy[int]:
    """Numbers of that many bits, often next to a power of two."""
    near = [power + more for power in (1 << b for b in range(bits)) for more in (-1, 0, 1)]
    return st.sampled_from([*near, (1 << bits) - 1]) | st.integers(0, (1 << bits) - 1)


ASKED = st.tuples(
    whole(64), whole(32), st.sampled_from(Phase), st.integers(0, LEVELS - 1), whole(16), whole(32)
)
"""Seed, image id, phase, level, attempt and sample."""


def counters(
    monkeypatch: pytest.MonkeyPatch, asked: tuple[Any, ...], shape: tuple[int, int, int], low: bool
) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """Key and counters (blocks, 4) that noise is drawn from; ``low`` words of integer noise."""
    seed, image_id, phase, level, attempt, sample = asked
    draw = Draw("", 0.5, phase, sample, 1, level)
    found = []

    def philox(words: list[NDArray[np.uint64]], *key: int) -> None:
        found.append((key, np.stack([word[0] for word in words], 1).astype(np.int64)))

    monkeypatch.setattr(stream, "philox_in_place", philox)
    about = (seed, image_id, draw.stream, [sample], shape)
    if low:
        integer_noise(*about, 0.5, attempt=attempt)
    else:
        with np.errstate(all="ignore"):
            standard_normal(*about, attempt=attempt)
    return found[-1]


@settings(deadline=None)
@given(asked=ASKED, shape=st.sampled_from(SHAPES), low=st.booleans())
def test_counters_tell_what_was_asked_for(
    asked: tuple[Any, ...], shape: tuple[int, int, int], low: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        (k0, k1), words = counters(patch, asked, shape, low)
    assert words[:, 0].tolist() == list(range(blocks_per_image(shape)))
    (sample,), (image_id,), (last,) = (set(words[:, i].tolist()) for i in (1, 2, 3))
    assert (last >> 8 & 0x7F, last >> 15 & 1) == (STREAM_VERSION, low)
    read = k0 | k1 << 32, image_id, Phase(last & 15), last >> 4 & 15, last >> 16, sample
    assert read == asked


@pytest.mark.skipif(not available(), reason="the compiled loops were not built")
@settings(deadline=None, max_examples=50)
@given(asked=ASKED, shape=st.sampled_from(SHAPES))
def test_compiled_loops_read_the_same_counters(
    asked: tuple[Any, ...], shape: tuple[int, int, int]
) -> None:
    import torch

    seed, image_id, phase, level, attempt, sample = asked
    byte, segment = Draw("", 1.0, phase, 0, 1, level).stream, np.zeros(1, SEGMENT)
    for name, value in (("end", 1), ("first", sample), ("image_id", image_id), ("sigma", 1.0)):
        segment[name] = value
    segment["word3"] = stream.counter_word3(byte, attempt)
    out = torch.zeros(1, *shape)
    NoisyRows(segment, np.zeros((1, *shape), np.float32), seed).write(0, out)
    spec = standard_normal(seed, image_id, byte, [sample], shape, attempt=attempt)
    assert np.abs(out.numpy() - spec).max() < 2e-6


@pytest.mark.parametrize(("first", "count"), [(1 << 32, 1), ((1 << 32) - 5, 6), (-1, 1), (5, -1)])
def test_samples_beyond_the_last_counter_are_refused(first: int, count: int) -> None:
    """They would read the noise of the first samples again."""
    assert Draw("", 1.0, Phase.PAIR, (1 << 32) - 5, 5).count == 5
    with pytest.raises(ArgumentError, match=r"^samples must be in \[0, 2\^32\)"):
        Draw("", 1.0, Phase.PAIR, first, count)


@pytest.mark.parametrize(
    ("shape", "rule"), [((0, 4, 1), "positive"), ((1 << 20, (1 << 12) + 1, 3), "at most 2")]
)
def test_images_without_counters_of_their_own_are_refused(
    shape: tuple[int, int, int], rule: str
) -> None:
    assert blocks_per_image((1 << 20, 1 << 12, 3)) == 1 << 32
    with pytest.raises(ArgumentError, match=rf"^shape must .*{rule}"):
        standard_normal(0, 0, 0, [0], shape)


def test_bundles_of_more_levels_than_have_counters() -> None:
    """One level needs none of its own; several would read the same noise for two bounds."""
    sigmas = tuple(0.05 * (level + 1) for level in range(LEVELS + 4))
    scene: Any = SimpleNamespace(tau=1.0, sigmas=sigmas, classifier_at=lambda _: "classifier")
    found = [FixedSmoothing(scene, s).classify(Phase.CLASS_ESTIMATE, s, 1).level for s in sigmas]
    assert found == [*range(LEVELS), 0, 0, 0, 0]
    for method in (DualSmoothing, VariationalSmoothing, CascadeSmoothing):
        with pytest.raises(ArgumentError, match="16"):
            method(scene)
    networks = SimpleNamespace(**(vars(scene) | {"sigmas": sigmas[:LEVELS]}))
    for several in (DualSmoothing(networks), CascadeSmoothing(networks)):
        draws = [several.classify(Phase.CLASS_ESTIMATE, s, 1) for s in networks.sigmas]
        assert len({draw.stream for draw in draws}) == LEVELS


def test_ids_between_two_are_refused_and_any_kind_of_integer_is_one() -> None:
    with pytest.raises(ArgumentError, match=r"^image_id must be an integer"):
        standard_normal(0, 1.5, 0, [0], (1, 1, 1))  # type: ignore[arg-type]
    for seed in (np.int32(5), np.uint64(5), np.uint8(5)):
        found = standard_normal(seed, 0, 0, [0], (2, 2, 1))  # type: ignore[arg-type]
        assert (found == standard_normal(5, 0, 0, [0], (2, 2, 1))).all()
