"""What limited a radius, read from the bounds of certificates."""

from dataclasses import replace
from math import inf

import pytest

from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.draws import DrawRecord
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.runs.limits import sides
from tests.engine.conftest import STAMP

LEDGER = AlphaLedger("minimum", 0.001, {"selector": 0.001, "classifier": 0.001})


def bound(stage: str, event: str, sigma: float, radius: float) -> Bound:
    return Bound(stage, event, sigma, 90, 100, 0.001, 0.7, radius)


def draw(sigma: float, level: int) -> DrawRecord:
    return DrawRecord("classifier", sigma, "CLASS_ESTIMATE", level, 0, 100, (90, 10, 0))


def certificate(radius: float, interval: tuple[int, int] | None, *bounds: Bound) -> Certificate:
    draws = (draw(0.12, 0), draw(0.25, 1), draw(0.5, 2))
    claim = Claim.of(3, radius, 0.25, LEDGER, bounds, "selector", interval)
    return Certificate.of(claim, STAMP, 0, None, draws, 0.0)


SELECTOR = (bound("selector", ">= 1", 0.5, 0.2), bound("selector", "<= 1", 0.5, 0.3),
            bound("selector", "<= 0", 0.5, 0.01))  # fmt: skip
CLASSIFIERS = (bound("classifier", "= 3", 0.12, 0.15), bound("classifier", "= 3", 0.25, 0.25))


def test_the_selector_limits_only_with_the_bounds_of_the_set_claimed() -> None:
    found = sides(certificate(0.2, (1, 1), *SELECTOR, *CLASSIFIERS))
    assert (found.selector, found.classifier, found.limit) == (0.2, 0.25, "selector")
    assert found.votes == "90/100"


def test_a_wider_set_rests_on_its_own_bounds() -> None:
    found = sides(certificate(0.15, (0, 1), *SELECTOR, *CLASSIFIERS))
    assert (found.selector, found.classifier, found.limit) == (0.3, 0.15, "classifier")


def test_every_level_needs_no_selector() -> None:
    top = bound("classifier", "= 3", 0.5, 0.1)
    found = sides(certificate(0.1, (0, 2), *SELECTOR, *CLASSIFIERS, top))
    assert (found.selector, found.classifier, found.limit) == (inf, 0.1, "classifier")


@pytest.mark.parametrize("bounds", [(), SELECTOR])
def test_abstentions_name_their_stage(bounds: tuple[Bound, ...]) -> None:
    found = sides(certificate(0.0, None, *bounds))
    assert found == (None, None, "selector", "")


def test_sides_of_a_real_run_agree_with_its_radii() -> None:
    """The smaller side is the radius, for every certificate of the bundled model."""
    from dualsmooth.engine.api import certify
    from dualsmooth.engine.budget import Budget
    from dualsmooth.engine.data.spec import load_images
    from dualsmooth.engine.methods.dual import DualSmoothing
    from dualsmooth.engine.models.sources.load import load_bundle

    method = DualSmoothing(load_bundle("digits-dual"))
    images = load_images("digits").images[:6]
    for c in certify(method, images, budget=Budget.fixed(20, 300), precision="fp32"):
        found = sides(c)
        if c.predicted is not None:
            assert found.selector is not None
            assert found.classifier is not None
            assert min(found.selector, found.classifier) == c.radius


def test_a_region_limits_only_where_the_radius_ends_with_it() -> None:
    whole = certificate(0.25, None, CLASSIFIERS[1])
    assert sides(replace(whole, region=0.4)).limit == "classifier"
    assert sides(replace(whole, region=0.1, radius=0.1)).limit == "region"
    lost = replace(whole, region=0.0, radius=0.0, predicted=None, abstained_at="region")
    assert sides(lost).limit == "region"


def test_votes_limit_where_the_bound_behind_the_radius_has_all_of_them() -> None:
    def all_of(bound: Bound) -> Bound:
        return replace(bound, k=bound.n)

    low, high = SELECTOR[:2]
    assert sides(certificate(0.25, None, all_of(CLASSIFIERS[1]))).limit == "votes"
    assert sides(certificate(0.2, (1, 1), all_of(low), high, *CLASSIFIERS)).limit == "votes"
    assert sides(certificate(0.2, (1, 1), low, all_of(high), *CLASSIFIERS)).limit == "selector"
    assert sides(certificate(0.15, (0, 1), *map(all_of, SELECTOR), *CLASSIFIERS)).limit == (
        "classifier"
    )
