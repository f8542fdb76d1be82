"""Certificates of one network from votes of another: rarely wrong, and unsound variants are caught.

2,000 seeded runs per scene at alpha = 0.01; a run is wrong if its radius exceeds the true radius of
smoothed f. The number of wrong runs must not exceed the 1 - 1e-6 quantile of Bin(2,000, alpha), so
the false-alarm rate is 1e-6 per scene. Votes are drawn from the joint law of s = c and f = c.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import special

from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.bounds.proportions import clopper_pearson_upper
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.draws import Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import Bound
from dualsmooth.engine.methods import transfer
from dualsmooth.engine.methods.transfer import TransferSmoothing, pair_role, transferred
from dualsmooth.engine.models.network import OneNetwork
from dualsmooth.engine.runtime.drive import answered
from tests.engine.methods.coverage.conftest import most_wrong

SIGMA, N, RUNS, ALPHA = 0.5, 300, 2_000, 0.01
LIMIT = most_wrong(RUNS, ALPHA)
BUDGET = Budget.fixed(n0=20, n=N)


@dataclass(frozen=True)
class Scene:
    """Two classes; s = 0 with probability ``votes``, and f = 1 beside it with ``disagree``.

    Where s = 1, f answers 1 too, which is the worst that the lemma allows for.
    """

    votes: float
    disagree: float
    pairs: int

    @property
    def radius(self) -> float:
        """Radius of class 0 of f; 0 where it has no majority."""
        return float(max(0.0, SIGMA * special.ndtri(self.votes - self.disagree)))

    def counts(self, draw: Draw, rng: np.random.Generator) -> np.ndarray:
        if draw.model == pair_role("classifier"):
            shares = [self.disagree, 0.0, 1 - self.disagree]
        else:
            shares = [self.votes, 1 - self.votes, 0.0]
        return rng.multinomial(draw.count, shares).astype(np.int64)


SCENES = {
    "few disagree": Scene(0.9, 0.004, 300),
    "many disagree": Scene(0.95, 0.2, 300),
    "few pairs": Scene(0.9, 0.05, 40),
    "majority lost": Scene(0.55, 0.06, 300),
    "majority of s only": Scene(0.99, 0.5, 300),
}


def run(procedure: Any, scene: Scene, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return answered(procedure, lambda draw: scene.counts(draw, rng))


def wrong(scene: Scene) -> int:
    """Runs whose radius for class 0 is beyond the true one."""
    method = TransferSmoothing(OneNetwork(), SIGMA, scene.pairs)
    found = [run(method.certify(BUDGET, ALPHA), scene, seed) for seed in range(RUNS)]
    return sum(c.predicted == 0 and c.radius > scene.radius for c in found)


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_wrong_radii_are_as_rare_as_promised(scene: Scene) -> None:
    assert wrong(scene) <= LIMIT


def forgotten(votes: Bound, _: Bound) -> float:
    """The radius of s, claimed for f."""
    return votes.lower


def estimated(votes: Bound, agreement: Bound) -> float:
    """The observed share of disagreement in the place of its bound."""
    return max(0.0, votes.lower - (1 - agreement.k / agreement.n))


def unpaired(votes: Bound, agreement: Bound) -> float:
    """Half of the disagreement, as if it struck both classes alike."""
    return max(0.0, votes.lower - (1 - agreement.lower) / 2)


@pytest.mark.parametrize(
    ("unsound", "scene"),
    [
        (forgotten, Scene(0.95, 0.2, 300)),
        (forgotten, Scene(0.9, 0.03, 300)),
        (estimated, Scene(0.99, 0.2, 60)),
        (unpaired, Scene(0.95, 0.2, 300)),
    ],
    ids=["forgotten", "a little forgotten", "estimated", "halved"],
)
def test_the_test_notices_unsound_variants(
    unsound: Callable[[Bound, Bound], float], scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "transferred", unsound)
    assert wrong(scene) > LIMIT


def test_alpha_cannot_be_spent_twice() -> None:
    """Both levels add up to what was asked for; the ledger refuses more."""
    method = TransferSmoothing(OneNetwork(), SIGMA, 300)
    found: Claim = run(method.certify(BUDGET, ALPHA), SCENES["few disagree"], 0)
    assert found.alpha.rule == "sum"
    assert found.alpha.total == ALPHA == sum(bound.alpha for bound in found.bounds)
    with pytest.raises(ArgumentError, match="must not exceed its budget"):
        type(found.alpha)("sum", ALPHA, {"classifier": ALPHA, "agreement": ALPHA})


@pytest.mark.parametrize(("k", "disagree"), [(300, 0), (290, 0), (290, 7), (160, 40), (0, 0)])
def test_the_bound_is_the_lemma_s(k: int, disagree: int) -> None:
    found: list[Bound] = []
    for count in (k, 300 - disagree):
        lower = float(clopper_pearson_lower(count, 300, ALPHA / 2))
        found.append(Bound("", "= 0", SIGMA, count, 300, ALPHA / 2, lower, 0.0))
    upper = float(clopper_pearson_upper(disagree, 300, ALPHA / 2))
    expected = max(0.0, found[0].lower - upper)
    assert transferred(found[0], found[1]) == pytest.approx(expected, abs=1e-12)
    exact = Fraction(found[0].lower) + Fraction(found[1].lower) - 1
    assert Fraction(transferred(found[0], found[1])) <= max(Fraction(0), exact)


def test_pairs_have_counters_of_their_own() -> None:
    """No sample that chooses or estimates is a pair's, and CERTIFY's pairs are not PREDICT's."""
    method, scene = TransferSmoothing(OneNetwork(), SIGMA, 50), SCENES["few disagree"]
    seen: set[tuple[Phase, int]] = set()
    for procedure in (method.certify(BUDGET, ALPHA), method.predict(200, ALPHA)):
        rng = np.random.default_rng(0)

        def answer(draw: Draw, rng: np.random.Generator = rng) -> np.ndarray:
            counters = {(draw.phase, draw.first + i) for i in range(draw.count)}
            assert not counters & seen
            assert (draw.phase == Phase.PAIR) == (draw.model == pair_role("classifier"))
            seen.update(counters)
            return scene.counts(draw, rng)

        answered(procedure, answer)
    assert len(seen) == 20 + 300 + 50 + 100 + 200 + 50


def test_predictions_are_about_f() -> None:
    method = TransferSmoothing(OneNetwork(), SIGMA, 300)
    sure: Prediction = run(method.predict(300, ALPHA), Scene(0.9, 0.02, 300), 0)
    assert sure == Prediction(0, (SIGMA,), None)
    lost: Prediction = run(method.predict(300, ALPHA), Scene(0.9, 0.5, 300), 0)
    assert lost == Prediction(None, (SIGMA,), "classifier")


def test_without_valid_votes_it_abstains() -> None:
    method = TransferSmoothing(OneNetwork(), SIGMA, 300)
    certificate = answered(method.certify(BUDGET, ALPHA), lambda draw: np.array([0, 0, 20]))
    assert (certificate.predicted, certificate.radius) == (None, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0, "pairs": 10}, "^sigma must be"),
        ({"sigma": 0.5, "pairs": 0}, "^pairs must be"),
        ({"sigma": 0.5, "pairs": 1.5}, "^pairs must be"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        TransferSmoothing(OneNetwork(), **options)


def test_votes_must_be_fixed_beforehand() -> None:
    method = TransferSmoothing(OneNetwork(), 0.5, 10)
    with pytest.raises(ArgumentError, match=r"^budget must be fixed with transfer"):
        method.certify(Budget.decide((0.25,), 20, 300), ALPHA)
