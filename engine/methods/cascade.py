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
from typing import Annotated

import numpy as np

from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.draws import LEVELS, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.options import Options
from dualsmooth.engine.methods.votes import event_bound, top_class
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Networks, check_networks
from dualsmooth.engine.radius.gaussian import margin_radius


@dataclass(frozen=True)
class CascadeSmoothing(Method):
    """Certify with the largest noise level that is sure of its class.

    Parameters
    ----------
    networks : Networks
        A bundle with 1 to 16 ascending ``sigmas`` and a classifier for each.
    threshold : float
        p0, the probability from which on a stage is sure, in [0.5, 1).
    """

    networks: Networks
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0.5 <= self.threshold < 1.0:
            raise ArgumentError("threshold", "must be in [0.5, 1)", self.threshold)
        if not 0 < len(check_networks(self.networks).sigmas) <= LEVELS:
            rule = f"must be a bundle with 1 to {LEVELS} noise levels"
            raise ArgumentError("bundle", rule, len(self.networks.sigmas))
        for sigma in self.networks.sigmas:
            self.networks.classifier_at(sigma)

    @property
    def name(self) -> str:
        return f"cascade({self.threshold:g})"

    @property
    def shares(self) -> int:
        return 2 * len(self.sigmas)

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        ledger = AlphaLedger("minimum", alpha, {"classifier": alpha, "earlier": alpha})
        for stage in reversed(range(len(self.sigmas))):
            guess = yield self.classify(Phase.CLASS_GUESS, self.sigmas[stage], budget.n0)
            candidate = top_class(guess)
            if candidate is not None and guess[candidate] >= self.threshold * budget.n0:
                return (yield from self._estimate(stage, candidate, budget.n, ledger))
        return Claim.of(None, 0.0, None, ledger)

    def _estimate(self, stage: int, candidate: int, n: int, ledger: AlphaLedger) -> Procedure:
        sigma, alpha = self.sigmas[stage], ledger.total
        counts = yield self.classify(Phase.CLASS_ESTIMATE, sigma, n)
        bounds = [event_bound("classifier", counts, "=", candidate, sigma, alpha)]
        radius = margin_radius(bounds[0].lower, 1.0 - self.threshold, sigma)
        for earlier in reversed(self.sigmas[stage + 1 :]):
            if not radius > 0.0:
                break
            counts = yield self.classify(Phase.CLASS_ESTIMATE, earlier, n)
            rivals = counts[:-1].copy()  # valid classes only
            rivals[candidate] = -1
            rival = int(np.argmax(rivals))
            bounds.append(event_bound("earlier", counts, "!=", rival, earlier, alpha))
            radius = min(radius, margin_radius(bounds[-1].lower, self.threshold, earlier))
        return Claim.of(candidate, radius, sigma, ledger, bounds)

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        """Bounds at alpha / (2 K) take a stage as sure, as unsure of every class, or abstain.

        Twice, because the class tested is the one with most of the same votes: classes below p0
        have probabilities that sum to at most 1, and P(Bin(n, p) >= m) is convex in p up to p0, so
        all of them together exceed m > n p0 votes no more often than two of them.
        """
        level, asked = alpha / self.shares, tuple[float, ...]()
        for sigma in reversed(self.sigmas):
            counts = yield self.classify(Phase.CLASS_PREDICT, sigma, n)
            asked = (*asked, sigma)
            candidate = top_class(counts)
            votes = 0 if candidate is None else int(counts[candidate])
            if float(clopper_pearson_lower(votes, n, level)) > self.threshold:
                return Prediction(candidate, asked, None)
            if not float(clopper_pearson_lower(n - votes, n, level)) > 1.0 - self.threshold:
                return Prediction(None, asked, "classifier")
        return Prediction(None, asked, "classifier")


@dataclass(frozen=True, kw_only=True)
class CascadeOptions(Options):
    """Options of ``cascade``."""

    threshold: Annotated[float, "probability from which on a level is sure"] = 0.5

    def build(self, bundle: Bundle) -> CascadeSmoothing:
        return CascadeSmoothing(bundle, self.threshold)
