"""What every method offers to the runtime."""

import dataclasses
from typing import Any, Protocol

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.draws import PredictProcedure, Procedure
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.networks import Networks
from dualsmooth.engine.models.bundle import Bundle


class Method(Protocol):
    """A published system as a pair of procedures."""

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""

    @property
    def networks(self) -> Networks:
        """The networks it votes with."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY for one image."""

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT for one image."""


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


def method_record(method: Method) -> dict[str, Any]:
    """Kind and options of a method as JSON; `choose_method` makes the method from them again."""
    assert dataclasses.is_dataclass(method)
    options = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    del options["networks"]
    return {"method": method.name.partition("(")[0], **options}
