"""Fixed-sigma smoothing: CERTIFY and PREDICT of Cohen, Rosenfeld and Kolter (2019).

Theorem. Let G(x) be the probability that the base classifier answers c under N(x, sigma^2 I). If
G(x0) >= p > 1/2, the smoothed classifier argmax G returns c at every x with
||x - x0|| < sigma * z(p).

Assumptions. One sigma for every input; n0 and n fixed beforehand; the n estimation votes are
independent of the n0 votes that chose c; noise is Gaussian.

Failure budget. One Clopper-Pearson bound at the full alpha.
"""

from dataclasses import dataclass

from dualsmooth.engine.budget import Budget, check_votes
from dualsmooth.engine.certificate import AlphaLedger, Bound, Certificate
from dualsmooth.engine.checks import open_unit, positive
from dualsmooth.engine.draws import Draw, Phase, Prediction, PredictProcedure, Procedure
from dualsmooth.engine.methods.networks import Networks
from dualsmooth.engine.methods.votes import event_bound, majority_class, top_class


@dataclass(frozen=True)
class FixedSmoothing:
    """Certify with one noise level for every input.

    Parameters
    ----------
    networks : Networks
        A bundle (`load_bundle`, `Bundle.from_modules`).
    sigma : float
        Noise standard deviation in [0, 1] pixel units.

    Raises
    ------
    ArgumentError
        If sigma is not finite and positive, or the bundle has no classifier for it.
    """

    networks: Networks
    sigma: float

    def __post_init__(self) -> None:
        positive("sigma", self.sigma)
        self.networks.classifier_at(self.sigma)

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        return f"fixed({self.sigma:g})"

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
        return self._certify(
            budget, AlphaLedger("single", open_unit("alpha", alpha), {"classifier": alpha})
        )

    def _certify(self, budget: Budget, ledger: AlphaLedger) -> Procedure:
        guess = yield self._draw(Phase.CLASS_GUESS, budget.n0)
        candidate = top_class(guess)
        bounds: tuple[Bound, ...] = ()
        if candidate is not None:
            counts = yield self._draw(Phase.CLASS_ESTIMATE, budget.n)
            bounds = (event_bound("classifier", counts, "=", candidate, self.sigma, ledger.total),)
        radius = min((bound.radius for bound in bounds), default=0.0)
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
        return self._predict(check_votes("n", n), open_unit("alpha", alpha))

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        counts = yield self._draw(Phase.CLASS_PREDICT, n)
        predicted = majority_class(counts, alpha)
        abstained_at = "classifier" if predicted is None else None
        return Prediction(predicted, (self.sigma,), abstained_at)

    def _draw(self, phase: Phase, count: int) -> Draw:
        model = self.networks.classifier_at(self.sigma)
        return Draw(model, self.sigma, phase, 0, count, self.level)
