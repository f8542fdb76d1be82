"""A method from its name and options, as the command line gives them."""

from collections.abc import Callable
from typing import Any

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.cascade import CascadeSmoothing
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.options import BELONGS_TO, MethodOptions
from dualsmooth.engine.methods.search import GridSearch, MultiStart, Quasiconcave, Search
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.models.target import with_target

METHODS = tuple(BELONGS_TO)


def choose_method(bundle: Bundle, *, method: str | None = None, **options: Any) -> Method:
    """Build a method.

    Parameters
    ----------
    bundle : Bundle
        Networks.
    method : str, optional
        A key of ``BELONGS_TO``; by default dual if the bundle has a selector and no sigma is given.
    **options
        Fields of `MethodOptions`; each is refused by methods it does not belong to.

    Raises
    ------
    ArgumentError
        If the method is unknown, or an option is missing or does not belong to it.
    FileError
        If a file of a region or of references cannot be read.
    """
    chosen = MethodOptions(**options)
    if method is None:
        method = "dual" if chosen.sigma is None and SELECTOR in bundle.networks else "fixed"
    if method not in METHODS:
        raise ArgumentError("method", f"must be one of {', '.join(METHODS)}", method)
    for name in chosen.given():
        if name not in BELONGS_TO[method]:
            owners = " or ".join(m for m in METHODS if name in BELONGS_TO[m])
            hint = "the selector picks the noise level of dual" if name == "sigma" else ""
            value = str(getattr(chosen, name))
            raise ArgumentError(name, f"belongs to --method {owners}", value, hint)
    return _MAKERS[method](bundle, chosen)


def method_with_all(bundle: Bundle) -> Method:
    """A method that draws from every network of a bundle, for sessions that only count votes."""
    if SELECTOR in bundle.networks:
        return DualSmoothing(bundle)
    return CascadeSmoothing(bundle) if bundle.sigmas else FixedSmoothing(bundle, 1.0)


def _fixed(bundle: Bundle, options: MethodOptions) -> Method:
    if options.sigma is None:
        levels = ", ".join(f"{s:g}" for s in bundle.sigmas) or "0.25"
        raise ArgumentError("sigma", "is required by --method fixed", None, f"for example {levels}")
    return FixedSmoothing(bundle, options.sigma, options.runner_up)


def _dual(bundle: Bundle, options: MethodOptions) -> Method:
    return DualSmoothing(
        bundle, options.selector_rule or "median", options.routing, options.published_split,
        options.runner_up,
    )  # fmt: skip


def _cascade(bundle: Bundle, options: MethodOptions) -> Method:
    return CascadeSmoothing(bundle, 0.5 if options.threshold is None else options.threshold)


def _variational(bundle: Bundle, options: MethodOptions) -> Method:
    from dualsmooth.engine.methods.variational import VariationalSmoothing

    target = options.target_sigma
    if target is not None:
        bundle = with_target(bundle, target)
    if options.routing != "continuous":
        return VariationalSmoothing(bundle, options.routing or "interval", target)
    from dualsmooth.engine.methods.variational_continuous import ContinuousVariational

    selector = bundle.networks.get(SELECTOR)
    if selector is None or selector.architecture != "ordered_levels":
        rule = "must not be continuous: the selector has no real-valued output"
        raise ArgumentError("routing", rule, "continuous")
    height, width, channels = bundle.input_shape
    return ContinuousVariational(bundle, height * width * channels, target)


def _semielastic(bundle: Bundle, options: MethodOptions) -> Method:
    from dualsmooth.engine.data.spec import load_images
    from dualsmooth.engine.methods.regions.neighbours import NeighbourNoise
    from dualsmooth.engine.methods.semielastic import SemielasticSmoothing

    for name in ("sigma", "references"):
        if getattr(options, name) is None:
            raise ArgumentError(name, "is required by --method semielastic", None)
    assert options.sigma is not None
    assert options.references is not None
    given = {name: getattr(options, name) for name in ("rate", "offset", "neighbours")}
    images = load_images(options.references, shape=bundle.input_shape).images
    noise = NeighbourNoise(
        images, options.sigma, **{name: value for name, value in given.items() if value is not None}
    )
    return SemielasticSmoothing(bundle, noise)


def _insta(bundle: Bundle, options: MethodOptions) -> Method:
    from dualsmooth.engine.methods.insta import AnchorSmoothing
    from dualsmooth.engine.methods.insta_memory import MemorySmoothing
    from dualsmooth.engine.methods.regions.anchors import read_anchors
    from dualsmooth.engine.methods.regions.memory import Memory

    region = options.region or "anchor"
    parts = {"anchor": ("anchors",), "memory": ("memory", "search"),
             "certified": ("selector_rule", "routing")}  # fmt: skip
    if region not in parts:
        raise ArgumentError("region", f"must be one of {', '.join(parts)}", region)
    for name in set(options.given()) - {"region", *parts[region]}:
        raise ArgumentError(name, f"does not belong to --region {region}", getattr(options, name))
    if region == "certified":
        return _dual(bundle, options)
    if region == "memory":
        return MemorySmoothing(bundle, make_search(bundle, options.search), Memory(options.memory))
    if options.anchors is None:
        raise ArgumentError("anchors", "is required by --method insta", None,
                            "dualsmooth search makes the file")  # fmt: skip
    return AnchorSmoothing(bundle, read_anchors(options.anchors))


def make_search(bundle: Bundle, name: str | None) -> Search:
    """A search by name: multi-start, quasiconcave or grid.

    By default multi-start, or grid where there are experts. The limits are the bundle's levels.

    Raises
    ------
    ArgumentError
        If the name is unknown.
    """
    sigmas = bundle.sigmas or (0.12, 0.25, 0.5, 1.0)
    experts = any("@" in role for role in bundle.networks)
    makers: dict[str, Callable[[], Search]] = {
        "multi-start": lambda: MultiStart(sigmas),
        "quasiconcave": lambda: Quasiconcave(sigmas[0], sigmas[-1], step=min(0.02, sigmas[0] / 2)),
        "grid": lambda: GridSearch(sigmas),
    }
    name = name or ("grid" if experts else "multi-start")
    if name not in makers:
        raise ArgumentError("search", f"must be one of {', '.join(makers)}", name)
    return makers[name]()


_MAKERS: dict[str, Callable[[Bundle, MethodOptions], Method]] = {
    "fixed": _fixed,
    "dual": _dual,
    "variational": _variational,
    "insta": _insta,
    "cascade": _cascade,
    "semielastic": _semielastic,
}
