"""All methods by name: as the command line chooses them, and as a run recorded them.

A new method is one file in this folder and one line in `METHODS` (CONTRIBUTING.md).
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dualsmooth.engine.checks import did_you_mean, one_of
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.cascade import CascadeOptions, CascadeSmoothing
from dualsmooth.engine.methods.dual import DualOptions, DualSmoothing
from dualsmooth.engine.methods.fixed import FixedOptions, FixedSmoothing
from dualsmooth.engine.methods.insta import InstaOptions
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.options import Given, Options, Recorded
from dualsmooth.engine.methods.semielastic import SemielasticOptions
from dualsmooth.engine.methods.variational import VariationalOptions
from dualsmooth.engine.models.bundle import SELECTOR, Bundle

METHODS: dict[str, type[Options]] = {
    "fixed": FixedOptions,
    "dual": DualOptions,
    "variational": VariationalOptions,
    "insta": InstaOptions,
    "cascade": CascadeOptions,
    "semielastic": SemielasticOptions,
}
"""Options of every method, in the order in which help names them."""


_LARGE = 4.0
"""Noise beside which no picture is seen; published levels end at 1."""


def check_named(of: Callable[..., Any], options: Iterable[str]) -> None:
    """Refuse keywords of neither a function nor a method, as Python does those of no function."""
    known = [name for kind in METHODS.values() for name in kind.names()]
    known += of.__kwdefaults__ or ()
    for name in options:
        if name not in known:
            said = f"{of.__name__}() got an unexpected keyword argument {name!r}"
            raise TypeError(f"{said} {did_you_mean(name, known)}".rstrip())


def choose_method(bundle: Bundle, *, method: str | None = None, **options: Any) -> Method:
    """Build a method: a key of `METHODS`, by default dual if the bundle has a selector and no sigma
    is given.

    Options are fields of the method's options: None and False count as not given, and what is given
    is refused by methods it does not belong to.
    """
    given = {k: value for k, value in options.items() if value is not None and value is not False}
    if method is None:
        method = "dual" if "sigma" not in given and SELECTOR in bundle.networks else "fixed"
    one_of("method", method, tuple(METHODS))
    check_named(choose_method, options)
    for name in given:
        owners = [known for known, kind in METHODS.items() if name in kind.names()]
        if method not in owners:
            rule = f"belongs to --method {' or '.join(owners)}"
            hint = "the selector picks the noise level of dual" if name == "sigma" else ""
            value = given[name]
            received = value if isinstance(value, int | float) else str(value)
            raise ArgumentError(name, rule, received, hint)
    built = METHODS[method](**given).build(bundle)
    if "sigma" in given and given["sigma"] > _LARGE:
        wide = given["sigma"]
        said = f"sigma is {wide:g} in units of pixels in [0, 1]; of 0 .. 255 it is {wide / 255:.3g}"
        warnings.warn(said, stacklevel=4)
    return built


def recorded_method(bundle: Bundle, record: Mapping[str, Any], given: Given) -> Recorded:
    """The method of a `Method.record`.

    Raises ValueError, KeyError or TypeError if the record is not one of a method, or what is given
    is not what it names.
    """
    one_of("method", record["method"], tuple(METHODS))
    options = {name: value for name, value in record.items() if name != "method"}
    return METHODS[record["method"]].recorded(bundle, options, given)


class _WithAll(DualSmoothing):
    """Draws from the expert at tau, too, where the selector classifies in its place."""

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([SELECTOR, *map(self.networks.classifier_at, self.sigmas)]))


def method_with_all(bundle: Bundle) -> Method:
    """A method that draws from every network of a bundle, for sessions that only count votes."""
    if SELECTOR in bundle.networks:
        return _WithAll(bundle)
    return CascadeSmoothing(bundle) if bundle.sigmas else FixedSmoothing(bundle, 1.0)
