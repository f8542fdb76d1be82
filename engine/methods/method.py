"""What every method offers to the runtime."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.draws import PredictProcedure, Procedure
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import Image
from dualsmooth.engine.methods.networks import Networks
from dualsmooth.engine.models.bundle import Bundle


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


def bundle_of(method: Method) -> Bundle:
    """The bundle a method votes with.

    Raises
    ------
    ArgumentError
        If the method was made from names alone, without networks.
    """
    if not isinstance(method.networks, Bundle):
        raise ArgumentError("method", "must be made from a Bundle", type(method.networks).__name__,
                            "load_bundle or Bundle.from_modules make one")  # fmt: skip
    return method.networks
