from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.regions.anchors import Anchors, read_anchors


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 2, 1)).astype(np.uint8)


@given(st.integers(0, 10_000))
def test_the_level_is_constant_inside_the_region(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = Anchors(images(12, seed), rng.choice([0.25, 0.5], 12))
    image = rng.random((3, 2, 1)).astype(np.float32)
    sigma, radius = anchors.locate(image)
    steps = rng.normal(size=(40, 3, 2, 1))
    steps *= 0.999999 * min(radius, 10.0) / np.sqrt(np.square(steps).sum((1, 2, 3), keepdims=True))
    for step in steps:
        assert anchors.locate((image + step).astype(np.float64))[0] == sigma


def test_the_region_ends_at_the_bisector() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.25]], np.float32).reshape(3, 1, 2, 1)
    anchors = Anchors(points, [0.25, 0.5, 0.25])
    sigma, radius = anchors.locate(np.array([0.125, 0.0], np.float32).reshape(1, 2, 1))
    assert sigma == 0.25
    assert 0.375 - 1e-12 < radius < 0.375


def test_another_anchor_of_the_level_may_reach_further() -> None:
    """The anchor at (-0.5, 0) is the nearest, but the one at (0, 0.6) is nearer to the other."""
    points = np.array([[-0.5, 0.0], [0.0, 0.6], [1.0, 0.0]], np.float32).reshape(3, 1, 2, 1)
    x = np.zeros((1, 2, 1), np.float32)
    both = Anchors(points, [0.25, 0.25, 0.5]).locate(x)[1]
    nearest = Anchors(points[[0, 2]], [0.25, 0.5]).locate(x)[1]
    assert nearest == pytest.approx(0.25)
    assert both == pytest.approx(0.64 / (2 * 1.36**0.5))


def test_a_point_between_levels_has_no_region_and_one_level_has_no_end() -> None:
    points = np.array([0.0, 1.0], np.float32).reshape(2, 1, 1, 1)
    x = np.full((1, 1, 1), 0.5, np.float32)
    assert Anchors(points, [0.25, 0.5]).locate(x) == (0.25, 0.0)
    assert Anchors(points, [0.5, 0.5]).locate(x) == (0.5, inf)
    same = np.zeros((2, 1, 1, 1), np.float32)
    assert Anchors(same, [0.25, 0.5]).locate(x)[1] == 0.0


def test_anchors_survive_their_file(tmp_path: Path) -> None:
    anchors = Anchors(images(5), [0.25, 0.5, 0.25, 0.25, 1.0])
    anchors.save(tmp_path / "anchors.npz")
    again = read_anchors(tmp_path / "anchors.npz")
    assert again.digest == anchors.digest
    assert again.shares() == [(0.25, 0.6), (0.5, 0.2), (1.0, 0.2)]


def test_bad_anchors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="sigmas"):
        Anchors(images(5), [0.25])
    with pytest.raises(ArgumentError, match="sigmas"):
        Anchors(images(1), [float("nan")])
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    for name in ("bad.npz", "missing.npz"):
        with pytest.raises(FileError, match="npz"):
            read_anchors(tmp_path / name)
