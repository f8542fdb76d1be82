"""One classifier certified by the votes of a cheaper one: int8 votes for a float32 network.

Lemma. For networks s (the one that votes) and f on the same noise,

    P(f = c) >= P(s = c) - P(s = c, f != c) = P(s = c) + P(not (s = c, f != c)) - 1,

so lower bounds of the two probabilities on the right give one of P(f = c), and with it the radius
of Cohen et al. (2019) for the classifier that smooths f.

Assumptions. Those of `dualsmooth.engine.methods.fixed` for the votes of s; the number of pairs is
fixed beforehand; both networks see the same noise in a pair, and neither network was made from it.

Failure budget. Two Clopper-Pearson bounds enter one formula, so their levels add up (sum rule):
alpha / 2 each. With no disagreement among m pairs this costs 1 - (alpha / 2)^(1/m) of probability.
"""

from dataclasses import dataclass, replace
from math import nextafter

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.checks import check_votes, positive
from dualsmooth.engine.draws import Counts, Draw, Phase, Prediction
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.votes import event_bound, top_class
from dualsmooth.engine.models.network import Networks
from dualsmooth.engine.radius.gaussian import gaussian_radius

PREDICT_GUESS = 100
"""Votes of PREDICT that choose a class."""


def pair_role(role: str) -> str:
    """Name of the network whose vote is s's class where f answers otherwise, else invalid."""
    return f"{role}.pairs"


def transferred(votes: Bound, agreement: Bound) -> float:
    """Lower bound of P(f = c), rounded down, at least 0.

    ``agreement`` is the bound of the complement of the event s = c, f != c.
    """
    missing = nextafter(1.0 - agreement.lower, 1.0)
    return max(0.0, nextafter(votes.lower - missing, 0.0))


@dataclass(frozen=True)
class TransferSmoothing(Method):
    """Certify f with one noise level from votes of s and ``pairs`` samples that both answer.

    ``networks`` name s by level; the sampler also knows `pair_role` of each.
    """

    networks: Networks
    sigma: float
    pairs: int

    def __post_init__(self) -> None:
        positive("sigma", self.sigma)
        check_votes("pairs", self.pairs)
        self.networks.classifier_at(self.sigma)

    @property
    def name(self) -> str:
        return f"transfer({self.sigma:g}, {self.pairs} pairs)"

    @property
    def sigmas(self) -> tuple[float, ...]:
        return (self.sigma,)

    @property
    def roles(self) -> tuple[str, ...]:
        (role,) = super().roles
        return (role, pair_role(role))

    @property
    def shares(self) -> int:
        return 2

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        ledger = AlphaLedger("sum", alpha, {"classifier": alpha / 2, "agreement": alpha / 2})
        guess = yield self.classify(Phase.CLASS_GUESS, self.sigma, budget.n0)
        candidate = top_class(guess)
        if candidate is None:
            return Claim.of(None, 0.0, self.sigma, ledger)
        counts = yield self.classify(Phase.CLASS_ESTIMATE, self.sigma, budget.n)
        bounds = self._bounds(counts, (yield self._pairs(0)), candidate, alpha / 2)
        radius = gaussian_radius(transferred(*bounds), self.sigma)
        return Claim.of(candidate, radius, self.sigma, ledger, bounds)

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        guess = yield self.classify(Phase.CLASS_PREDICT, self.sigma, PREDICT_GUESS)
        candidate = top_class(guess)
        if candidate is not None:
            counts = yield self.classify(Phase.CLASS_PREDICT, self.sigma, n, PREDICT_GUESS)
            pairs = yield self._pairs(self.pairs)
            if transferred(*self._bounds(counts, pairs, candidate, alpha / 2)) > 0.5:
                return Prediction(candidate, (self.sigma,), None)
        return Prediction(None, (self.sigma,), "classifier")

    def _bounds(
        self, counts: Counts, pairs: Counts, candidate: int, alpha: float
    ) -> tuple[Bound, Bound]:
        return (
            event_bound("classifier", counts, "=", candidate, self.sigma, alpha),
            event_bound("agreement", pairs, "!=", candidate, self.sigma, alpha),
        )

    def _pairs(self, first: int) -> Draw:
        """Samples on which both networks answer, on the counters of the classifier's level."""
        draw = self.classify(Phase.PAIR, self.sigma, self.pairs, first)
        return replace(draw, model=pair_role(draw.model))
