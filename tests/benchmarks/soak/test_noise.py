"""The soak of the noise stream: quiet on the engine's words, loud on worse ones."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dualsmooth.benchmarks.soak.noise import PHASE, Draw, Soak, Words, philox, places
from dualsmooth.engine.noise.stream import counter_word3, philox4x32

good = philox(5)


def soaked(draw: Draw) -> Soak:
    soak = Soak(draw)
    for image, first in places(2):
        soak.add(image, first, normals=True)
    return soak


def test_the_words_are_the_engine_s() -> None:
    words = philox(5 << 32 | 9)(7, PHASE, 256)
    assert_array_equal(words[3, 11], philox4x32([11, 259, 7, counter_word3(PHASE)], [9, 5]))


def test_no_alarm_on_the_engine_s_words() -> None:
    soak = soaked(good)
    assert len(soak.p_values()) == 25
    assert soak.alarms() == []
    assert soak.words == 2 * (1 << 20)


def stuck(image: int, phase: int, first: int) -> Words:
    """The lowest bit of lane 2 is set too often, by one in thirty."""
    words = good(image, phase, first)
    words[::30, :, 2] |= np.uint32(1)
    return words


def half_the_samples(image: int, phase: int, first: int) -> Words:
    """Two samples that follow each other agree in their highest bit more often than not."""
    words = good(image, phase, first)
    words[1::2, ::100] = words[::2, ::100]
    return words


def blind_to_phases(image: int, phase: int, first: int) -> Words:
    return good(image, PHASE, first)


def blind_to_images(image: int, phase: int, first: int) -> Words:
    return good(0, phase, first)


def counters(image: int, phase: int, first: int) -> Words:
    """Evenly spread as no random words are."""
    return np.arange(256 * 1024 * 4, dtype=np.uint32).reshape(256, 1024, 4) * np.uint32(4096)


@pytest.mark.parametrize(
    ("draw", "alarm"),
    [
        (stuck, "lane 2, low half, bits"),
        (half_the_samples, "bits that differ from the next sample"),
        (blind_to_phases, "bits that differ from the next phase"),
        (blind_to_images, "bits that differ from the next image"),
        (counters, "lane 0, high half"),
    ],
)
def test_worse_words_raise_an_alarm(draw: Draw, alarm: str) -> None:
    assert alarm in soaked(draw).alarms()
