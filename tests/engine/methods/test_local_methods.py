"""Methods that see the image, end to end on digits with an untrained bundle."""

import json

import numpy as np
import pytest

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.insta import AnchorSmoothing
from dualsmooth.engine.methods.insta_memory import MemorySmoothing
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.methods.search import GridSearch
from dualsmooth.engine.models.bundle import Bundle

BUDGET = Budget.fixed(20, 200)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.asarray(load_images("digits").images[:6])


def test_anchors_certify_like_fixed_sigma_no_further_than_the_region(
    bundle: Bundle, images: np.ndarray
) -> None:
    train = load_images("digits:train").images[:40]
    method = AnchorSmoothing(bundle, Anchors(train, [0.12, 0.5] * 20))
    made = certify(method, images, budget=BUDGET, alpha=0.01)
    for index, certificate in enumerate(made):
        assert certificate.sigma is not None
        assert certificate.region is not None
        fixed = certify(
            FixedSmoothing(bundle, certificate.sigma), images, budget=BUDGET, alpha=0.01
        )
        unlimited = fixed[index]
        assert certificate.counts == unlimited.counts
        assert certificate.radius == min(unlimited.radius, certificate.region)
        assert Certificate.from_json(certificate.to_json()) == certificate
    assert any(c.radius == c.region for c in made)


def test_lines_without_a_region_are_as_before(bundle: Bundle, images: np.ndarray) -> None:
    line = certify(FixedSmoothing(bundle, 0.25), images[:1], budget=BUDGET)[0].to_json()
    assert "region" not in json.loads(line)
    assert Certificate.from_json(line).region is None


def test_the_memory_answers_before_the_search(bundle: Bundle, images: np.ndarray) -> None:
    memory = Memory()
    method = MemorySmoothing(bundle, GridSearch(bundle.sigmas), memory)
    first = certify(method, images, budget=BUDGET, alpha=0.05)
    kept = [c for c in first if c.predicted is not None]
    assert len(memory) == len(kept) > 0
    again = certify(method, images, budget=BUDGET, alpha=0.05, slots=1)
    for one, other in zip(first, again, strict=True):
        if one.predicted is not None:
            assert (other.predicted, other.draws) == (one.predicted, 0)
            assert one.radius * (1 - 1e-9) < other.radius < one.radius
            assert Certificate.from_json(other.to_json()) == other


def test_a_memory_is_asked_about_one_image_at_a_time(bundle: Bundle, images: np.ndarray) -> None:
    method = MemorySmoothing(bundle, GridSearch(bundle.sigmas), Memory())
    with pytest.raises(ArgumentError, match="slots must be 1"):
        certify(method, images, budget=BUDGET, slots=2)


def test_semielastic_at_rate_zero_is_fixed_smoothing(bundle: Bundle, images: np.ndarray) -> None:
    options = {"sigma": 0.25, "references": "digits:train"}
    still = choose_method(bundle, method="semielastic", rate=0.0, **options)
    drifting = choose_method(bundle, method="semielastic", rate=0.05, **options)
    fixed = certify(FixedSmoothing(bundle, 0.25), images, budget=BUDGET, alpha=0.05)
    for one, other, moved in zip(
        certify(still, images, budget=BUDGET, alpha=0.05), fixed,
        certify(drifting, images, budget=BUDGET, alpha=0.05), strict=True,
    ):  # fmt: skip
        assert one.radius == pytest.approx(other.radius, rel=1e-6, abs=1e-9)
        assert moved.sigma is not None
        assert moved.sigma > 0.25
        assert moved.radius < moved.sigma / 0.25 * 4
