"""Cascade: several noise levels from large to small, the first one that is sure answers.

Jeong and Shin (2023) let stage s, of level sigma_s, answer class c if G_s^c = P(f(x + sigma_s w) =
c) >= p0, with p0 >= 1/2; otherwise the next smaller level is asked; if none is sure the deployed
classifier abstains. Only classes can be sure, invalid votes cannot.

Theorem. Let A be the class and s the stage to certify, G_s^A(x0) >= p, and let q_k bound the
probability of the strongest class other than A at each earlier stage k. For

    ||x - x0|| < min( sigma_s (z(p) - z(p0)), min_{k < s} sigma_k (z(p0) - z(q_k)) )

stage s is sure of A at x, and no earlier stage is sure of another class (Salman et al., 2019,
Lemma 2). Earlier stages may be sure of A or unsure, so the deployed classifier answers A.

Assumptions. The n0 selection votes of each stage fix A and s; n is fixed beforehand and the
estimation votes are independent of them; noise is Gaussian.

Failure budget. One minimum is claimed of a stage fixed by selection votes, so every bound is at the
full alpha. (Reporting the best stage by its estimation votes would need alpha / K.) The bound on
the largest rival count needs no correction for the number of classes.
"""

from dataclasses import dataclass

import numpy as np

from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import check_votes, error_level
from dualsmooth.engine.draws import LEVELS, Counts, Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.methods.method import Networks, PredictProcedure, Procedure
from dualsmooth.engine.methods.votes import event_bound, top_class
from dualsmooth.engine.radius.gaussian import margin_radius


@dataclass(frozen=True)
class CascadeSmoothing:
    """Certify with the largest noise level that is sure of its class.

    Parameters
    ----------
    networks : Networks
        A bundle with ascending ``sigmas`` and a classifier for each.
    threshold : float
        p0, the probability from which on a stage is sure, in [0.5, 1).

    Raises
    ------
    ArgumentError
        If the bundle has no levels, more than 16, or none of the threshold's range.
    """

    networks: Networks
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0.5 <= self.threshold < 1.0:
            raise ArgumentError("threshold", "must be in [0.5, 1)", self.threshold)
        if not 0 < len(self.networks.sigmas) <= LEVELS:
            rule = f"must be a bundle with 1 to {LEVELS} noise levels"
            raise ArgumentError("bundle", rule, len(self.networks.sigmas))
        for sigma in self.networks.sigmas:
            self.networks.classifier_at(sigma)

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        return f"cascade({self.threshold:g})"

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        classifiers = (self.networks.classifier_at(sigma) for sigma in self.networks.sigmas)
        return tuple(dict.fromkeys(classifiers))

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY: a class and a radius, or abstain."""
        if budget.kind != "fixed":
            raise ArgumentError("budget", "must be fixed for a cascade", budget.kind)
        level = error_level("alpha", alpha)
        ledger = AlphaLedger("minimum", level, {"classifier": level, "earlier": level})
        return self._certify(budget, ledger)

    def _certify(self, budget: Budget, ledger: AlphaLedger) -> Procedure:
        for stage in reversed(range(len(self.networks.sigmas))):
            guess = yield self._draw(Phase.CLASS_GUESS, stage, budget.n0)
            candidate = top_class(guess)
            if candidate is not None and guess[candidate] >= self.threshold * budget.n0:
                return (yield from self._estimate(stage, candidate, budget.n, ledger))
        return self._certificate(None, None, 0.0, [], ledger)

    def _estimate(self, stage: int, candidate: int, n: int, ledger: AlphaLedger) -> Procedure:
        counts = yield self._draw(Phase.CLASS_ESTIMATE, stage, n)
        sigma, alpha = self.networks.sigmas[stage], ledger.total
        bounds = [event_bound("classifier", counts, "=", candidate, sigma, alpha)]
        radius = margin_radius(bounds[0].lower, 1.0 - self.threshold, sigma)
        for earlier in reversed(range(stage + 1, len(self.networks.sigmas))):
            if not radius > 0.0:
                break
            counts = yield self._draw(Phase.CLASS_ESTIMATE, earlier, n)
            sigma = self.networks.sigmas[earlier]
            bounds.append(_rival_bound(counts, candidate, sigma, alpha))
            radius = min(radius, margin_radius(bounds[-1].lower, self.threshold, sigma))
        return self._certificate(stage, candidate, radius, bounds, ledger)

    def _certificate(
        self,
        stage: int | None,
        candidate: int | None,
        radius: float,
        bounds: list[Bound],
        ledger: AlphaLedger,
    ) -> Certificate:
        certified = radius > 0.0
        return Certificate(
            predicted=candidate if certified else None,
            radius=radius,
            sigma=None if stage is None else self.networks.sigmas[stage],
            method=self.name,
            abstained_at=None if certified else "classifier",
            alpha=ledger,
            bounds=tuple(bounds),
        )

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT: P(returned class is not the deployed classifier's) <= alpha.

        A stage is taken as sure, or as unsure of every class, if a bound at alpha / (2 K) says so;
        if neither, the answer is to abstain. Twice, because the class tested is the one with most
        of the same votes: classes below p0 have probabilities that sum to at most 1, and
        P(Bin(n, p) >= m) is convex in p up to p0, so all of them together exceed m > n p0 votes no
        more often than two of them.
        """
        parts = 2 * len(self.networks.sigmas)
        return self._predict(check_votes("n", n), error_level("alpha", alpha, parts) / parts)

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        asked: tuple[float, ...] = ()
        for stage in reversed(range(len(self.networks.sigmas))):
            counts = yield self._draw(Phase.CLASS_PREDICT, stage, n)
            asked = (*asked, self.networks.sigmas[stage])
            candidate = top_class(counts)
            votes = 0 if candidate is None else int(counts[candidate])
            if float(clopper_pearson_lower(votes, n, alpha)) > self.threshold:
                return Prediction(candidate, asked, None)
            if not float(clopper_pearson_lower(n - votes, n, alpha)) > 1.0 - self.threshold:
                return Prediction(None, asked, "classifier")
        return Prediction(None, asked, "classifier")

    def _draw(self, phase: Phase, level: int, count: int) -> Draw:
        sigma = self.networks.sigmas[level]
        return Draw(self.networks.classifier_at(sigma), sigma, phase, 0, count, level)


def _rival_bound(counts: Counts, candidate: int, sigma: float, alpha: float) -> Bound:
    """Bound on the strongest valid class other than the candidate, as the event that it is not."""
    rivals = counts[:-1].copy()
    rivals[candidate] = -1
    return event_bound("earlier", counts, "!=", int(np.argmax(rivals)), sigma, alpha)
