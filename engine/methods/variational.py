"""Variational RS: a real-valued selector, smoothed by its median, here over discrete levels.

Hase et al. (2024) train a network H_phi(x) > 0 that names the noise level of each input; the
deployed level is the median of clip(H_phi(x + tau w)) (median smoothing: Chiang et al., 2020). Here
the clipped output is quantized: the network votes into ordered bins, and sigma(x) is the level of
the median bin. That is dual smoothing with an ordered selector, theorem C of
`dualsmooth.engine.methods.dual`, and no radius depends on the dimension of the input.
`dualsmooth.engine.methods.variational_continuous` takes the median itself.

Assumptions. Those of dual; a target noise given to the selector is fixed for the run: choosing it
from the input would make it part of sigma(x), which nothing bounds.

Failure budget. That of dual.
"""

from dataclasses import dataclass
from typing import Annotated

from dualsmooth.engine.budget import KINDS, Budget
from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.options import Options
from dualsmooth.engine.methods.variational_continuous import ContinuousVariational, target_text
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.models.network import Networks
from dualsmooth.engine.models.operating_point import told


@dataclass(frozen=True)
class VariationalSmoothing(Method):
    """Certify with a selector that votes for bins of a noise level.

    Parameters
    ----------
    networks : Networks
        A bundle with a ``selector`` over the bins, ``tau``, and a representative of each bin in
        ``sigmas``, ascending.
    routing : str
        ``interval`` or ``point``, as in `DualSmoothing`.
    target_sigma : float or None
        Target noise the selector was told (`operating_point.told`); written into the certificate.
    """

    networks: Networks
    routing: str = "interval"
    target_sigma: float | None = None
    budgets = KINDS

    def __post_init__(self) -> None:
        DualSmoothing(self.networks, "median", self.routing)

    @property
    def name(self) -> str:
        return f"variational(discrete, {self.routing}{target_text(self.target_sigma)})"

    @property
    def roles(self) -> tuple[str, ...]:
        return self._dual.roles

    @property
    def _dual(self) -> DualSmoothing:
        return DualSmoothing(self.networks, "median", self.routing)

    @property
    def shares(self) -> int:
        return self._dual.shares

    def check(self, budget: Budget, alpha: float) -> None:
        self._dual.check(budget, alpha)

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        return self._dual.certify(budget, alpha)

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        return self._dual.predict(n, alpha)


@dataclass(frozen=True, kw_only=True)
class VariationalOptions(Options):
    """Options of ``variational``, discrete and continuous."""

    routing: Annotated[str, "interval (default), point or continuous"] = "interval"
    target_sigma: Annotated[
        float | None, "target noise the selector is told, fixed for the run"
    ] = None

    def build(self, bundle: Bundle) -> VariationalSmoothing | ContinuousVariational:
        target = self.target_sigma
        if target is not None:
            positive("target_sigma", target)
            bundle = told(bundle, "target_sigma", target)
        if self.routing != "continuous":
            return VariationalSmoothing(bundle, self.routing, target)
        selector = bundle.networks.get(SELECTOR)
        if selector is None or selector.architecture != "ordered_levels":
            rule = "must not be continuous: the selector has no real-valued output"
            raise ArgumentError("routing", rule, "continuous")
        height, width, channels = bundle.input_shape
        return ContinuousVariational(bundle, height * width * channels, target)
