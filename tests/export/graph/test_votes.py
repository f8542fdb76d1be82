"""Votes counted inside a graph against a plain loop over the specification's noise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from onnx import ModelProto, checker, numpy_helper

from dualsmooth.engine.models.sources.onnx_session import OrtSession, make_session
from dualsmooth.engine.noise.stream import standard_normal
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.export.feeds import vote_feeds
from dualsmooth.export.graph.nodes import Nodes
from dualsmooth.export.graph.probe import probe
from dualsmooth.export.graph.votes import Voter, vote_model

Make = Callable[..., ModelProto]
SHAPE, CLASSES, BATCH = (5, 3, 3), 4, 16
IMAGE = np.random.default_rng(0).random(SHAPE).astype(np.float32)


def session_of(model: ModelProto) -> OrtSession:
    return make_session(model.SerializeToString())


def feeds(rows: int, **changes: int) -> dict[str, NDArray[Any]]:
    at = {"seed": 7, "image_id": 3, "phase": 2, "first": 0} | changes
    segment = Segment(0, at["image_id"], 0.5, at["phase"], at["first"], rows)
    return vote_feeds(IMAGE, segment, at["seed"])


def votes_of(network: ModelProto, rows: int, **changes: int) -> NDArray[np.int64]:
    session = session_of(vote_model(Voter(network, SHAPE, CLASSES, BATCH)))
    return np.asarray(session.run(None, feeds(rows, **changes))[0])


def noisy(rows: int, first: int = 0) -> NDArray[np.float32]:
    """Flat noisy copies of the image, channels first, for the counters that `feeds` names."""
    noise = standard_normal(7, 3, 2, np.arange(first, first + rows), SHAPE)
    return (IMAGE + np.float32(0.5) * noise).transpose(0, 3, 1, 2).reshape(rows, -1)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 331])
def test_votes_equal_a_plain_loop(linear_network: Make, rows: int) -> None:
    network = linear_network(SHAPE, CLASSES)
    found = votes_of(network, rows, first=9)
    weights = numpy_helper.to_array(network.graph.initializer[0])
    logits = noisy(rows, 9).astype(np.float64) @ weights
    assert_array_equal(found, np.bincount(logits.argmax(1), minlength=CLASSES + 1))
    assert found.dtype == np.int64
    assert found.sum() == rows


def test_no_rows_give_no_votes(linear_network: Make) -> None:
    assert_array_equal(votes_of(linear_network(SHAPE, CLASSES), 0), np.zeros(CLASSES + 1))


def test_votes_add_up_over_any_split(linear_network: Make) -> None:
    session = session_of(vote_model(Voter(linear_network(SHAPE, CLASSES), SHAPE, CLASSES, BATCH)))

    @given(st.integers(1, 80), st.integers(0, 80))
    def law(rows: int, cut: int) -> None:
        cut = min(cut, rows)
        whole, left, right = (
            session.run(None, feeds(count, first=first))[0]
            for first, count in ((0, rows), (0, cut), (cut, rows - cut))
        )
        assert_array_equal(left + right, whole)

    law()


def test_a_network_that_looks_at_its_batch_fails_the_split(linear_network: Make) -> None:
    """The law above can fail: subtracting the batch mean makes votes depend on batch mates."""

    def centered(nodes: Nodes, _: str, logits: str) -> str:
        mean = nodes.add("ReduceMean", logits, nodes.constant([0], np.int64))
        return nodes.add("Sub", logits, mean)

    network = linear_network(SHAPE, CLASSES, centered)
    halves = votes_of(network, 7) + votes_of(network, 57, first=7)
    assert not np.array_equal(halves, votes_of(network, 64))


@pytest.mark.parametrize(
    "changed", [{"seed": 8}, {"seed": 7 + 2**32}, {"image_id": 4}, {"phase": 3}, {"first": 40},
                {"phase": 2 | 1 << 16}, {"phase": 2 | 1 << 4}], ids=str,
)  # fmt: skip
def test_every_counter_changes_votes(linear_network: Make, changed: dict[str, int]) -> None:
    network = linear_network(SHAPE, CLASSES)
    assert not np.array_equal(votes_of(network, 300, **changed), votes_of(network, 300))


def test_sample_indices_wrap_as_uint32(linear_network: Make) -> None:
    network = linear_network(SHAPE, CLASSES)
    wrapped = votes_of(network, 20, first=2**32 - 5)
    parts = votes_of(network, 5, first=2**32 - 5) + votes_of(network, 15)
    assert_array_equal(wrapped, parts)


def test_non_finite_logits_are_invalid_and_ties_go_to_the_lowest_class(
    linear_network: Make,
) -> None:
    def odd(nodes: Nodes, flat: str, logits: str) -> str:
        """Classes 1 and 3 tie; the sign of the first pixels makes logits infinite or NaN."""
        tied = nodes.add("Mul", logits, nodes.constant([0, 0, 0, 0], np.float32))
        tied = nodes.add("Add", tied, nodes.constant([0, 1, 0, 1], np.float32))
        low, high = (nodes.constant([bound], np.int64) for bound in (0, 2))
        pixels = nodes.add("Slice", flat, low, high, nodes.constant([1], np.int64))
        over = nodes.add("Less", nodes.constant([0.9, 0.9], np.float32), pixels)
        values = nodes.constant([[np.inf, np.nan]], np.float32)
        zeros = nodes.constant([[0, 0]], np.float32)
        bad = nodes.add("Where", over, values, zeros)
        padding = nodes.constant([0, 2, 0, 0], np.int64)
        return nodes.add("Add", tied, nodes.add("Pad", bad, padding))

    found = votes_of(linear_network(SHAPE, CLASSES, odd), 400)
    invalid = int((noisy(400)[:, :2] > 0.9).any(axis=1).sum())
    assert 0 < invalid < 400
    assert_array_equal(found, [0, 400 - invalid, 0, 0, invalid])


def test_files_pass_the_full_check_and_hold_no_noise(linear_network: Make) -> None:
    model = vote_model(Voter(linear_network(SHAPE, CLASSES), SHAPE, CLASSES, BATCH))
    checker.check_model(model, full_check=True)
    assert model.ByteSize() < 30_000


def test_a_probe_shows_the_noise_that_votes(linear_network: Make) -> None:
    model = probe(vote_model(Voter(linear_network(SHAPE, CLASSES), SHAPE, CLASSES, BATCH)))
    session = session_of(model)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, feeds(20)), strict=True))
    noise = found["noise"].reshape(-1, *SHAPE)[:20]
    assert np.abs(noise - standard_normal(7, 3, 2, np.arange(20), SHAPE)).max() <= 2e-6
    assert found["word0"].dtype == np.uint64
    logits = found["logits"].reshape(-1, CLASSES)[:20]
    assert_array_equal(np.bincount(logits.argmax(1), minlength=CLASSES + 1), found["votes"])
