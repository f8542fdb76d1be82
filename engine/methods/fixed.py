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
(sum rule); with budget ``decide`` one sequential
test per radius of the grid, each at the full alpha (`dualsmooth.engine.methods.decide`).
"""

from dataclasses import dataclass

from dualsmooth.engine.bounds.sample_size import Pilot, planned_votes
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import check_votes, error_level, positive
from dualsmooth.engine.draws import Counts, Draw, Phase, Prediction
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.methods.decide import Stream, Trial, decide
from dualsmooth.engine.methods.method import Networks, PredictProcedure, Procedure
from dualsmooth.engine.methods.votes import check_runner_up, class_radius, majority_class, top_class
from dualsmooth.engine.radius.decision import check_grid


@dataclass(frozen=True)
class FixedSmoothing:
    """Certify with one noise level for every input.

    Parameters
    ----------
    networks : Networks
        A bundle (`load_bundle`, `Bundle.from_modules`).
    sigma : float
        Noise standard deviation in [0, 1] pixel units.
    runner_up : bool
        Bound the strongest rival too: certifies classes below half of the votes, and costs a
        little where the class has nearly all of them.

    Raises
    ------
    ArgumentError
        If sigma is not finite and positive, or the bundle has no classifier for it.
    """

    networks: Networks
    sigma: float
    runner_up: bool = False

    def __post_init__(self) -> None:
        positive("sigma", self.sigma)
        self.networks.classifier_at(self.sigma)

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        return f"fixed({self.sigma:g}{', runner-up' if self.runner_up else ''})"

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        return (self.networks.classifier_at(self.sigma),)

    @property
    def level(self) -> int:
        """Noise level whose counters are used; bundles share votes between fixed and dual runs."""
        sigmas = self.networks.sigmas
        return sigmas.index(self.sigma) if self.sigma in sigmas else 0

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY: a class and a radius, or abstain."""
        check_grid(budget.radii, self.sigma, budget.n, alpha)
        check_runner_up(self.runner_up, budget)
        return self._certify(budget, self._ledger(error_level("alpha", alpha, 1 + self.runner_up)))

    def _ledger(self, alpha: float) -> AlphaLedger:
        if self.runner_up:
            return AlphaLedger("sum", alpha, {"classifier": alpha / 2, "rival": alpha / 2})
        return AlphaLedger("single", alpha, {"classifier": alpha})

    def _certify(self, budget: Budget, ledger: AlphaLedger) -> Procedure:
        guess = yield self._draw(Phase.CLASS_GUESS, budget.n0)
        candidate = top_class(guess)
        if candidate is None:
            return self._certificate(None, 0.0, (), ledger)
        if budget.kind == "decide":
            stream = Stream(self._draw(Phase.CLASS_ESTIMATE, budget.n), guess)
            trial = Trial("classifier", ("=", candidate), stream, ledger.total)
            decision = yield from decide(budget.radii, [[trial]])
            return self._certificate(candidate, decision.radius, (trial.bound,), ledger)
        n = self._sample_size(guess, candidate, budget, ledger.total)
        counts = yield self._draw(Phase.CLASS_ESTIMATE, n)
        radius, bounds = class_radius(counts, candidate, self.sigma, ledger.total, self.runner_up)
        return self._certificate(candidate, radius, bounds, ledger)

    def _sample_size(self, guess: Counts, candidate: int, budget: Budget, alpha: float) -> int:
        if budget.tolerance is None:
            return budget.n
        pilot = Pilot(int(guess[candidate]), budget.n0, self.sigma, alpha)
        return planned_votes(None, pilot, budget.n, budget.tolerance)[1]

    def _certificate(
        self, candidate: int | None, radius: float, bounds: tuple[Bound, ...], ledger: AlphaLedger
    ) -> Certificate:
        certified = radius > 0.0
        return Certificate(
            predicted=candidate if certified else None,
            radius=radius,
            sigma=self.sigma,
            method=self.name,
            abstained_at=None if certified else "classifier",
            alpha=ledger,
            bounds=bounds,
        )

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT: P(returned class is not the smoothed classifier's) <= alpha."""
        return self._predict(check_votes("n", n), error_level("alpha", alpha))

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        counts = yield self._draw(Phase.CLASS_PREDICT, n)
        predicted = majority_class(counts, alpha)
        abstained_at = "classifier" if predicted is None else None
        return Prediction(predicted, (self.sigma,), abstained_at)

    def _draw(self, phase: Phase, count: int) -> Draw:
        model = self.networks.classifier_at(self.sigma)
        return Draw(model, self.sigma, phase, 0, count, self.level)
