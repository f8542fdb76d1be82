import numpy as np
import pytest

from dualsmooth.engine.noise.stream import counter_word3, standard_normal
from dualsmooth.engine.samplers.torch_noise import normal_rows


@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (5, 7, 3), (3, 3, 4), (3, 5, 2), (1, 1, 1), (97, 91, 3)]
)
def test_rows_equal_the_specification(shape: tuple[int, int, int]) -> None:
    """Mixed images, phases and samples in one batch; odd sizes; more rows than one pass."""
    rng = np.random.default_rng(3)
    rows = 40 if shape[0] > 50 else 700
    images = rng.integers(0, 3, rows).astype(np.uint64)
    phases = rng.integers(0, 2, rows)
    samples = rng.integers(0, 1 << 32, rows).astype(np.uint64)
    word3 = np.array([counter_word3(int(p)) for p in phases], np.uint64)
    noise = normal_rows(12345678901234567890, images, word3, samples, shape)
    assert noise.shape == (rows, *shape)
    expected = np.empty_like(noise)
    for image in range(3):
        for phase in range(2):
            chosen = (images == image) & (phases == phase)
            expected[chosen] = standard_normal(
                12345678901234567890, image, phase, samples[chosen], shape
            )
    assert np.abs(noise - expected).max() <= 5e-7
    assert np.mean(noise != expected) < 1e-5


def test_rows_do_not_depend_on_their_batch() -> None:
    samples = np.arange(100, dtype=np.uint64)
    zeros = np.zeros(100, np.uint64)
    together = normal_rows(1, zeros, zeros, samples, (5, 5, 1))
    for i in (0, 1, 50, 99):
        alone = normal_rows(1, zeros[:1], zeros[:1], samples[i : i + 1], (5, 5, 1))
        np.testing.assert_array_equal(together[i : i + 1], alone)
