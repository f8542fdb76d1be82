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

from dataclasses import dataclass
from math import nextafter

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import check_votes, error_level, positive
from dualsmooth.engine.draws import Counts, Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.methods.method import Networks, PredictProcedure, Procedure
from dualsmooth.engine.methods.votes import event_bound, top_class
from dualsmooth.engine.radius.gaussian import gaussian_radius

PREDICT_GUESS = 100
"""Votes of PREDICT that choose a class."""


def pair_role(role: str) -> str:
    """Name of the network whose vote is s's class where f answers otherwise, else invalid."""
    return f"{role}.pairs"


def transferred(votes: Bound, agreement: Bound) -> float:
    """Lower bound of P(f = c), rounded down, at least 0.

    Parameters
    ----------
    votes : Bound
        Of the event s = c.
    agreement : Bound
        Of the complement of the event s = c, f != c.
    """
    missing = nextafter(1.0 - agreement.lower, 1.0)
    return max(0.0, nextafter(votes.lower - missing, 0.0))


@dataclass(frozen=True)
class TransferSmoothing:
    """Certify f with one noise level from votes of s and pairs of both.

    Parameters
    ----------
    networks : Networks
        Names of s by level; the sampler also knows `pair_role` of each.
    sigma : float
        Noise standard deviation in [0, 1] pixel units.
    pairs : int
        Samples on which both networks answer, >= 1.

    Raises
    ------
    ArgumentError
        If a number is out of range, or there is no classifier for sigma.
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
        """Method and options as written into certificates."""
        return f"transfer({self.sigma:g}, {self.pairs} pairs)"

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        role = self.networks.classifier_at(self.sigma)
        return (role, pair_role(role))

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY: a class of f and a radius, or abstain.

        Raises
        ------
        ArgumentError
            If the budget does not fix its votes beforehand.
        """
        if budget.kind != "fixed":
            rule = "must be fixed with pairs of networks"
            raise ArgumentError("budget", rule, budget.kind, "Budget.fixed(n0, n)")
        return self._certify(budget, error_level("alpha", alpha, 2))

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        ledger = AlphaLedger("sum", alpha, {"classifier": alpha / 2, "agreement": alpha / 2})
        guess = yield self._votes(Phase.CLASS_GUESS, 0, budget.n0)
        candidate = top_class(guess)
        bounds: tuple[Bound, ...] = ()
        radius = 0.0
        if candidate is not None:
            counts = yield self._votes(Phase.CLASS_ESTIMATE, 0, budget.n)
            pairs = yield self._pairs(0)
            bounds = self._bounds(counts, pairs, candidate, alpha / 2)
            radius = gaussian_radius(transferred(*bounds), self.sigma)
        return Certificate(
            predicted=candidate if radius > 0.0 else None,
            radius=radius,
            sigma=self.sigma,
            method=self.name,
            abstained_at=None if radius > 0.0 else "classifier",
            alpha=ledger,
            bounds=bounds,
        )

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT: P(returned class is not the one that smoothed f answers) <= alpha."""
        return self._predict(check_votes("n", n), error_level("alpha", alpha, 2))

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        candidate = top_class((yield self._votes(Phase.CLASS_PREDICT, 0, PREDICT_GUESS)))
        if candidate is not None:
            counts = yield self._votes(Phase.CLASS_PREDICT, PREDICT_GUESS, n)
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

    def _votes(self, phase: Phase, first: int, count: int) -> Draw:
        return Draw(self.roles[0], self.sigma, phase, first, count, self._level)

    def _pairs(self, first: int) -> Draw:
        return Draw(self.roles[1], self.sigma, Phase.PAIR, first, self.pairs, self._level)

    @property
    def _level(self) -> int:
        sigmas = self.networks.sigmas
        return sigmas.index(self.sigma) if self.sigma in sigmas else 0
