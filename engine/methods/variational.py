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

from dataclasses import dataclass, replace

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.method import Networks, PredictProcedure, Procedure


@dataclass(frozen=True)
class VariationalSmoothing:
    """Certify with a selector that votes for bins of a noise level.

    Parameters
    ----------
    networks : Networks
        A bundle with a ``selector`` over the bins, ``tau``, and a representative of each bin in
        ``sigmas``, ascending.
    routing : str
        ``interval`` or ``point``, as in `DualSmoothing`.
    target_sigma : float or None
        Target noise the selector was told (`with_target`); written into the certificate.

    Raises
    ------
    ArgumentError
        If the bundle lacks a part or an option is unknown.
    """

    networks: Networks
    routing: str = "interval"
    target_sigma: float | None = None

    def __post_init__(self) -> None:
        DualSmoothing(self.networks, "median", self.routing)

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        return f"variational(discrete, {self.routing}{target_text(self.target_sigma)})"

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        return self._dual.roles

    @property
    def _dual(self) -> DualSmoothing:
        return DualSmoothing(self.networks, "median", self.routing)

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY: procedure C1 of dual smoothing over the bins."""
        return self._renamed(self._dual.certify(budget, alpha))

    def _renamed(self, procedure: Procedure) -> Procedure:
        certificate = yield from procedure
        return replace(certificate, method=self.name)

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT of dual smoothing."""
        return self._dual.predict(n, alpha)


def target_text(sigma: float | None) -> str:
    """The target noise as part of a method's name; empty without one."""
    return "" if sigma is None else f", target {sigma:g}"
