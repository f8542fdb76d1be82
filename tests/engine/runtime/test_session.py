"""What a session keeps while it works through many images."""

import gc
from pathlib import Path

import numpy as np

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runtime.flight import Flight
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

IMAGES, SLOTS = 60, 4


def flights() -> int:
    gc.collect()
    return sum(type(thing) is Flight for thing in gc.get_objects())


def test_images_that_are_done_are_let_go(tiny_bundle: Path) -> None:
    """A flight holds its votes and its certificate: kept to the end, a long run would grow."""
    method = DualSmoothing(load_bundle(tiny_bundle))
    settings = Settings(Budget.fixed(10, 100), device="cpu", precision="fp32", slots=SLOTS)
    images, before = np.zeros((IMAGES, 8, 8, 1), np.uint8), flights()
    with Session.open(method, settings, FakeSampler) as session:
        found = session.certify(images)
        for done in range(1, IMAGES + 1):
            assert next(found).image_id in range(IMAGES)
            if done % 20 == 0:
                assert flights() - before <= IMAGES - done + SLOTS
        predictions = session.predict(images)
        for _ in range(IMAGES // 2):
            next(predictions)
        assert flights() - before <= IMAGES // 2 + SLOTS
