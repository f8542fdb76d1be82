"""Fixed-sigma smoothing: CERTIFY and PREDICT of Cohen, Rosenfeld and Kolter (2019).

Theorem. Let G(x) be the probability that the base classifier answers c under N(x, sigma^2 I). If
G(x0) >= p > 1/2, the smoothed classifier argmax G returns c at every x with
||x - x0|| < sigma * z(p).

Assumptions. One sigma for every input; n0 fixed beforehand; n fixed beforehand, or chosen by the n0
votes (budget ``precise``); the n estimation votes are independent of the n0 votes that chose c;
noise is Gaussian.

With ``runner_up`` the two-class form is used: G of the class against G of its strongest rival B,
radius (sigma / 2) (z(p_A) - z(p_B)).

Failure budget. One Clopper-Pearson bound at the full alpha; two at alpha / 2 with ``runner_up``
(sum rule); with budget ``decide`` one sequential test per radius of the grid, each at the full
alpha (`dualsmooth.engine.methods.decide`).
"""

from dataclasses import dataclass, replace
from typing import Annotated

from dualsmooth.engine.bounds.sample_size import Pilot, planned_votes
from dualsmooth.engine.budget import KINDS, Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.checks import keep_plain, positive
from dualsmooth.engine.draws import Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.decide import EventTests, VoteStream, check_radii, decide
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.options import Options
from dualsmooth.engine.methods.votes import class_radius, majority_class, top_class
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Networks, check_networks

RunnerUp = Annotated[
    bool, "bound the strongest rival too; certifies classes below half of the votes"
]


@dataclass(frozen=True)
class FixedSmoothing(Method):
    """Certify with one noise level for every input.

    Parameters
    ----------
    networks : Networks
        A bundle (`load_bundle`, `Bundle.from_modules`) with a classifier for sigma.
    sigma : float
        Noise standard deviation in [0, 1] pixel units.
    runner_up : bool
        Bound the strongest rival too: certifies classes below half of the votes, and costs a
        little where the class has nearly all of them.
    """

    networks: Networks
    sigma: float
    runner_up: bool = False
    budgets = KINDS

    def __post_init__(self) -> None:
        keep_plain(self, "sigma")
        positive("sigma", self.sigma)
        check_networks(self.networks).classifier_at(self.sigma)

    @property
    def name(self) -> str:
        return f"fixed({self.sigma:g}{', runner-up' if self.runner_up else ''})"

    @property
    def sigmas(self) -> tuple[float, ...]:
        return (self.sigma,)

    @property
    def shares(self) -> int:
        return 2 if self.runner_up else 1

    def check(self, budget: Budget, alpha: float) -> None:
        super().check(budget, alpha)
        check_radii(budget, self.sigma, alpha, self.runner_up)

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        ledger = AlphaLedger("single", alpha, {"classifier": alpha})
        if self.runner_up:
            ledger = AlphaLedger("sum", alpha, {"classifier": alpha / 2, "rival": alpha / 2})
        estimate = self.classify(Phase.CLASS_ESTIMATE, self.sigma, budget.n)
        then = estimate if budget.kind == "fixed" else None
        guess = yield replace(self.classify(Phase.CLASS_GUESS, self.sigma, budget.n0), then=then)
        candidate = top_class(guess)
        if candidate is None:
            return Claim.of(None, 0.0, self.sigma, ledger)
        if budget.kind == "decide":
            trial = EventTests("classifier", ("=", candidate), VoteStream(estimate, guess), alpha)
            radius = (yield from decide(budget.radii, [[trial]])).radius
            return Claim.of(candidate, radius, self.sigma, ledger, [trial.bound])
        n = budget.n
        if budget.tolerance is not None:
            pilot = Pilot(int(guess[candidate]), budget.n0, self.sigma, alpha)
            n = planned_votes(None, pilot, n, budget.tolerance)[1]
        counts = yield replace(estimate, count=n)
        radius, bounds = class_radius(counts, candidate, self.sigma, alpha, self.runner_up)
        return Claim.of(candidate, radius, self.sigma, ledger, bounds)

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        counts = yield self.classify(Phase.CLASS_PREDICT, self.sigma, n)
        predicted = majority_class(counts, alpha)
        abstained_at = "classifier" if predicted is None else None
        return Prediction(predicted, (self.sigma,), abstained_at)


@dataclass(frozen=True, kw_only=True)
class FixedOptions(Options):
    """Options of ``fixed``."""

    sigma: Annotated[float | None, "noise level, in [0, 1] pixel units"] = None
    runner_up: RunnerUp = False

    def build(self, bundle: Bundle) -> FixedSmoothing:
        if self.sigma is None:
            levels = ", ".join(f"{s:g}" for s in bundle.sigmas) or "0.25"
            rule = "is required by --method fixed"
            raise ArgumentError("sigma", rule, None, f"for example {levels}")
        return FixedSmoothing(bundle, self.sigma, self.runner_up)
