from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.regions.neighbours import NeighbourNoise

REFERENCES = np.random.default_rng(1).integers(0, 256, (30, 4, 3, 1)).astype(np.uint8)


def test_sigma_is_the_formula() -> None:
    noise = NeighbourNoise(REFERENCES, 0.25, rate=0.1, offset=1.0, neighbours=3)
    image = np.random.default_rng(2).random((4, 3, 1)).astype(np.float32)
    pixels = (REFERENCES / np.float32(255)).astype(np.float64)
    distances = np.sort(np.sqrt(np.square(pixels - image).sum((1, 2, 3))))
    expected = 0.25 * exp(0.1 * (distances[:3].mean() - 1.0))
    assert noise.at(image) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 10_000), st.floats(1e-6, 3.0))
def test_sigma_drifts_no_faster_than_the_rate(seed: int, length: float) -> None:
    noise = NeighbourNoise(REFERENCES, 0.25, rate=0.5, neighbours=4)
    rng = np.random.default_rng(seed)
    x, step = rng.random((4, 3, 1)), rng.normal(size=(4, 3, 1))
    y = x + step * length / np.linalg.norm(step)
    drift = abs(log(noise.at(y)) - log(noise.at(x)))
    assert drift <= 0.5 * np.linalg.norm(y - x) * (1 + 1e-9) + 1e-12


def test_what_decides_sigma_is_in_its_name() -> None:
    one = NeighbourNoise(REFERENCES, 0.25).record
    assert one != NeighbourNoise(REFERENCES[1:], 0.25).record
    assert one != NeighbourNoise(REFERENCES, 0.25, rate=0.02).record
    assert one == NeighbourNoise(REFERENCES.copy(), 0.25).record


@pytest.mark.parametrize(
    "change",
    [{"base": 0.0}, {"rate": -1.0}, {"offset": float("nan")}, {"neighbours": 31},
     {"references": REFERENCES[:0]}],
)  # fmt: skip
def test_bad_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        NeighbourNoise(**{"references": REFERENCES, "base": 0.25, **change})  # type: ignore[arg-type]
