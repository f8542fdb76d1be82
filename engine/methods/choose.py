"""A method from its name and options, as the command line gives them."""

from typing import TYPE_CHECKING

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing

if TYPE_CHECKING:
    from dualsmooth.engine.models.bundle import Bundle

METHODS = ("fixed", "dual")


def choose_method(
    bundle: "Bundle",
    *,
    method: str | None = None,
    sigma: float | None = None,
    selector_rule: str | None = None,
    routing: str | None = None,
    published_split: bool = False,
) -> FixedSmoothing | DualSmoothing:
    """Build a method.

    Parameters
    ----------
    bundle : Bundle
        Networks.
    method : str, optional
        ``fixed`` or ``dual``; by default dual if the bundle has a selector and no sigma is given.
    sigma : float, optional
        Required by ``fixed``, refused by ``dual``.
    selector_rule, routing, published_split
        Options of `DualSmoothing`, refused by ``fixed``.

    Raises
    ------
    ArgumentError
        If the method is unknown or an option does not belong to it.
    """
    if method is None:
        method = "dual" if sigma is None and "selector" in bundle.networks else "fixed"
    if method not in METHODS:
        raise ArgumentError("method", f"must be one of {', '.join(METHODS)}", method)
    if method == "dual":
        if sigma is not None:
            raise ArgumentError("sigma", "belongs to --method fixed", sigma,
                                "the selector picks the noise level of dual")  # fmt: skip
        return DualSmoothing(bundle, selector_rule or "median", routing, published_split)
    for name, value in (("selector_rule", selector_rule), ("routing", routing)):
        if value is not None:
            raise ArgumentError(name, "belongs to --method dual", value)
    if published_split:
        raise ArgumentError("published_split", "belongs to --method dual", True)
    if sigma is None:
        levels = ", ".join(f"{s:g}" for s in bundle.sigmas) or "0.25"
        raise ArgumentError("sigma", "is required by --method fixed", None, f"for example {levels}")
    return FixedSmoothing(bundle, sigma)
