"""What every method offers to the runtime."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.draws import Counts, Draw, Prediction
from dualsmooth.engine.images import Image

if TYPE_CHECKING:
    from dualsmooth.engine.certificate import Certificate


class Networks(Protocol):
    """Names of the networks and the noise levels they belong to."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the selector's classes, ascending."""

    @property
    def tau(self) -> float | None:
        """The selector's own noise level, None if there is no selector."""

    def classifier_at(self, sigma: float) -> str:
        """Name of the classifier used at sigma; raises `ArgumentError` if there is none."""


class CommonNetworks(Networks, Protocol):
    """Networks for methods that compare noise levels: the same classifier at all of them."""

    def common_classifier(self) -> str:
        """Name of the classifier used at every sigma; raises `ArgumentError` if levels differ."""


class OneNetwork:
    """A single classifier used at every sigma, without a selector."""

    name: ClassVar[str] = "classifier"
    sigmas: ClassVar[tuple[float, ...]] = ()
    tau: ClassVar[float | None] = None

    def classifier_at(self, sigma: float) -> str:
        """The classifier's name, whatever sigma is."""
        return self.name

    def common_classifier(self) -> str:
        """The classifier's name."""
        return self.name


Procedure: TypeAlias = Generator[Draw, Counts, "Certificate"]
"""CERTIFY for one image: yields draws, receives votes, returns the certificate."""


PredictProcedure: TypeAlias = Generator[Draw, Counts, Prediction]
"""PREDICT for one image."""


class Described(Protocol):
    """What every method tells about itself."""

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""

    @property
    def networks(self) -> Networks:
        """The networks it votes with."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""


class GlobalMethod(Described, Protocol):
    """A published system as a pair of procedures that see the image through votes only."""

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY for one image."""

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT for one image."""


class LocalMethod(Described, Protocol):
    """A system whose noise level is a known function of the image."""

    def at(self, image: Image) -> GlobalMethod:
        """The procedures for one image."""


Method: TypeAlias = GlobalMethod | LocalMethod
"""A published system."""


def method_at(method: Method, image: Callable[[], Image]) -> GlobalMethod:
    """The procedures of a method for one image, float32 in [0, 1], channels-last.

    The image is fetched only if the method reads it.
    """
    at = getattr(method, "at", None)
    return method if at is None else at(image())  # type: ignore[return-value]


def is_serial(method: Method) -> bool:
    """Whether an answer depends on all answers before it: one image at a time, in one process."""
    return bool(getattr(method, "serial", False))
