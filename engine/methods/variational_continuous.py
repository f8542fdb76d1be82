"""Variational RS with a real-valued noise level: the median of the selector's clipped output.

sigma(x) = median of clip(H_phi(x + tau w)) (Hase et al., 2024; median smoothing: Chiang et al.,
2020). For ||x - x0|| <= e it lies between the Phi(-e/tau) and the Phi(e/tau) quantile at x0. With
s0 chosen by selection votes and P(f(x0 + s0 w) = A) >= p, the deployed classifier answers A at
every x closer than

    R = sup{ e : L(p; e, s0, lo(e)) > 1/2 and L(p; e, s0, up(e)) > 1/2 }

where lo and up bound those quantiles by order statistics of one sample of votes into bins (edges of
bins), and L is the Neyman-Pearson bound of `radius.two_scale`: two ends at distance e
decide for all levels between them and all smaller distances. The same f must be deployed at every
level. L allows ratios of a few percent at d = 784 and of a few tenths of a percent at d = 150528,
so this form certifies only where the selector hardly moves;
`dualsmooth.engine.methods.variational` has no such limit.

Assumptions. n0 and n are fixed beforehand; the n0 selection votes (level, class) are independent of
the estimation votes; noise is Gaussian; a target noise given to the selector is fixed for the run.

Failure budget. a_sel + a_cls, alpha/2 each, a_sel per side: let R* be the true supremum; a false
radius needs the classifier's bound, or the bound of the one quantile that fails just above R*, to
be wrong. Searching e is free, because the intervals are nested.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any

import scipy

from dualsmooth.engine.bounds.order_statistics import order_statistic_lower, order_statistic_upper
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.checks import check_votes, positive, positive_integer
from dualsmooth.engine.draws import Counts, Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.routing import routed_level
from dualsmooth.engine.methods.votes import event_bound, top_class
from dualsmooth.engine.models.network import CommonNetworks
from dualsmooth.engine.radius.two_scale import noise_scale, two_scale_lower_bound

_STEPS = 24
_EDGE = 1e-6
"""How far, relatively, float32 votes and scales may put a level beyond the edge of its bin."""


@dataclass(frozen=True)
class ContinuousVariational(Method):
    """Certify with the median of the selector's clipped output itself as the noise level.

    Parameters
    ----------
    networks : Networks
        As for `VariationalSmoothing`, with two levels or more and one classifier for all.
    dim : int
        Number of input components.
    target_sigma : float or None
        Target noise the selector was told.
    """

    networks: CommonNetworks
    dim: int
    target_sigma: float | None = None
    needs_fp32 = True

    def __post_init__(self) -> None:
        if self.networks.tau is None or len(self.networks.sigmas) < 2:
            rule = "must have a selector, tau and at least two sigmas"
            raise ArgumentError("bundle", rule, len(self.networks.sigmas))
        self.networks.common_classifier()
        positive_integer("dim", self.dim)

    @property
    def edges(self) -> tuple[float, ...]:
        """Limits of the bins of votes for the nearest level on a log scale, one more than levels.

        The first and the last level are the limits of the selector's output.
        """
        sigmas = self.networks.sigmas
        return (sigmas[0], *(sqrt(a * b) for a, b in pairwise(sigmas)), sigmas[-1])

    @property
    def name(self) -> str:
        bins = f"{len(self.networks.sigmas)} bins"
        return f"variational(continuous, {bins}{target_text(self.target_sigma)})"

    @property
    def roles(self) -> tuple[str, ...]:
        return ("selector", self.networks.common_classifier())

    @property
    def record(self) -> dict[str, Any]:
        return {"method": "variational", "routing": "continuous", "target_sigma": self.target_sigma}

    @property
    def shares(self) -> int:
        return 2

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        ledger = AlphaLedger("sum", alpha, {"selector": alpha / 2, "classifier": alpha / 2})
        bin_ = routed_level("median", (yield self._select(Phase.SELECT_GUESS, budget.n0)))
        if bin_ is None:
            return Claim.of(None, 0.0, None, ledger, failed_at="selector")
        sigma = self.networks.sigmas[bin_]
        candidate = top_class((yield self._classify(Phase.CLASS_GUESS, sigma, budget.n0)))
        if candidate is None:
            return Claim.of(None, 0.0, sigma, ledger)
        counts = yield self._classify(Phase.CLASS_ESTIMATE, sigma, budget.n)
        bound = event_bound("classifier", counts, "=", candidate, sigma, alpha / 2)
        if not bound.radius > 0.0:
            return Claim.of(None, 0.0, sigma, ledger, [bound])
        selection = yield self._select(Phase.SELECT_ESTIMATE, budget.n)
        radius = self._radius(selection, bound.lower, sigma, bound.radius, ledger)
        return Claim.of(candidate, radius, sigma, ledger, [bound], "selector")

    def _radius(
        self, selection: Counts, p: float, sigma: float, most: float, ledger: AlphaLedger
    ) -> float:
        def holds(distance: float) -> bool:
            lower, upper = self.ends(selection, distance, ledger.levels["selector"])
            return all(
                two_scale_lower_bound(p, distance, noise_scale(sigma), end, self.dim) > 0.5
                for end in (upper, lower)
            )

        return largest(holds, most)

    def ends(self, selection: Counts, distance: float, alpha: float) -> tuple[float, float]:
        """Bounds, each at alpha, on the deployed noise level at every point within an L2 distance.

        They are the left edge of the lower order statistic's bin and the right edge of the upper
        one's, or the clip limits where there is none. Invalid votes of the selector count as lowest
        for the lower end and as highest for the upper one.
        """
        n, invalid = int(selection.sum()), int(selection[-1])
        shift = noise_scale(positive("tau", self.networks.tau))
        low = order_statistic_lower(
            n, float(scipy.special.ndtr(-distance / shift)) * (1 - 1e-12), alpha
        )
        high = order_statistic_upper(
            n, min(1.0, float(scipy.special.ndtr(distance / shift)) * (1 + 1e-12)), alpha
        )
        below = selection[:-1].cumsum()
        lower, upper = self.edges[0], self.edges[-1]
        if low is not None and low > invalid:
            lower = self.edges[int((below + invalid < low).sum())]
        if high is not None and high <= n - invalid:
            upper = self.edges[int((below < high).sum()) + 1]
        return lower * (1.0 - _EDGE), upper * (1.0 + _EDGE)

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        if check_votes("n", n) < 2:
            raise ArgumentError("n", "must be at least 2 for continuous variational", n)
        return super().predict(n, alpha)

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        """The class must have more than half of the mass at both ends of the noise level's range.

        Hence at every level between. The first half of each network's votes chooses level and
        class, the second half bounds them, at alpha/2 for either network.
        """
        half, alpha = n // 2, alpha / 2
        bin_ = routed_level("median", (yield self._select(Phase.SELECT_PREDICT, half)))
        if bin_ is None:
            return Prediction(None, (), "selector")
        sigma = self.networks.sigmas[bin_]
        candidate = top_class((yield self._classify(Phase.CLASS_PREDICT, sigma, half)))
        if candidate is None:
            return Prediction(None, (sigma,), "classifier")
        counts = yield self._classify(Phase.CLASS_PREDICT, sigma, n - half, half)
        bound = event_bound("classifier", counts, "=", candidate, sigma, alpha)
        selection = yield self._select(Phase.SELECT_PREDICT, n - half, half)
        ends = self.ends(selection, 0.0, alpha)
        if all(two_scale_lower_bound(bound.lower, 0.0, sigma, s, self.dim) > 0.5 for s in ends):
            return Prediction(candidate, ends, None)
        return Prediction(None, ends, "classifier" if not bound.radius > 0.0 else "selector")

    def _select(self, phase: Phase, count: int, first: int = 0) -> Draw:
        return Draw("selector", positive("tau", self.networks.tau), phase, first, count)

    def _classify(self, phase: Phase, sigma: float, count: int, first: int = 0) -> Draw:
        return Draw(self.networks.common_classifier(), sigma, phase, first, count)


def largest(holds: Callable[[float], bool], most: float) -> float:
    """A distance in [0, most] at which a condition that is lost once and for all still holds.

    Only distances that were tried are returned, so no property of the condition makes the result
    too large; 0.0 if it does not hold at ``most / 2^24``.
    """
    good, bad = most * 2.0**-_STEPS, most
    if not holds(good):
        return 0.0
    if holds(most):
        return most
    for _ in range(_STEPS):
        middle = (good + bad) / 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def target_text(sigma: float | None) -> str:
    """The target noise as part of a method's name; empty without one."""
    return "" if sigma is None else f", target {sigma:g}"
