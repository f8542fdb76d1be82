"""Noise in the graph against the specification: words exactly, normals within 2e-6."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from onnx import checker

from dualsmooth.engine.models.sources.onnx_session import make_session
from dualsmooth.engine.noise import stream as noise
from dualsmooth.export.graph import philox as philox_graph
from dualsmooth.export.graph.nodes import FLOAT, UINT32, UINT64, Nodes, model_of, value
from dualsmooth.export.graph.philox import WORDS, Stream, normals, random_words, round_keys

SHAPES = [(9, 7, 3), (8, 8, 1), (5, 3, 1), (3, 5, 4), (1, 1, 2), (32, 32, 3)]


def draw(
    seed: int, counters: tuple[np.ndarray, int, int], shape: tuple[int, int, int]
) -> list[np.ndarray]:
    """Words and normals of rows with sample indices, an image id and a fourth counter word."""
    samples, image_id, word3 = counters
    nodes = Nodes()
    stream = Stream(round_keys(nodes, "key"), "image_id", "stream")
    words = random_words(nodes, stream, "samples", noise.blocks_per_image(shape))
    output = normals(nodes, words, shape)
    inputs = [
        value("key", UINT32, (2,)), value("samples", UINT64, ("rows", 1)),
        value("image_id", UINT64, ()), value("stream", UINT64, ()),
    ]  # fmt: skip
    outputs = [*(value(word, UINT64, ("rows", None)) for word in WORDS),
               value(output, FLOAT, ("rows", *shape))]  # fmt: skip
    model = model_of(nodes.graph("noise", inputs, outputs))
    checker.check_model(model, full_check=True)
    feed = {
        "key": np.array([seed % 2**32, seed >> 32], np.uint32),
        "samples": samples.astype(np.uint64)[:, None],
        "image_id": np.array(image_id, np.uint64),
        "stream": np.array(word3, np.uint64),
    }
    return list(make_session(model.SerializeToString()).run(None, feed))


def test_known_answer() -> None:
    """Counter 2499, 0, 0, 0 and key 20111115: word 3 is C++26's check value."""
    words = draw(20111115, (np.array([0]), 0, 0), (50, 50, 3))[:4]
    assert int(words[3][0, 2499]) == 1955073260


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [0, 2**64 - 1, 0x0123456789ABCDEF])
def test_words_are_the_specification_s(shape: tuple[int, int, int], seed: int) -> None:
    samples, image_id = np.array([0, 1, 12345, 2**32 - 1], np.uint64), 2**32 - 1
    word3 = noise.counter_word3(0xFF, 0xFFFF)
    *words, _ = draw(seed, (samples, image_id, word3), shape)
    ids = np.full(len(samples), image_id, np.uint64)
    expected = noise.block_words(
        seed, ids, np.full(len(samples), word3, np.uint64), samples, noise.blocks_per_image(shape)
    )
    for found, word in zip(words, expected, strict=True):
        assert_array_equal(found, word)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normals_are_the_specification_s(shape: tuple[int, int, int]) -> None:
    samples = np.arange(5, 90, dtype=np.uint64)
    *_, found = draw(11, (samples, 42, noise.counter_word3(18)), shape)
    expected = noise.standard_normal(11, 42, 18, samples, shape)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-6
    assert (found != expected).mean() < 1e-5


def test_a_round_too_few_gives_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(philox_graph, "ROUNDS", 9)
    words = draw(20111115, (np.array([0]), 0, 0), (50, 50, 3))[:4]
    assert int(words[3][0, 2499]) != 1955073260
