"""The target noise a selector is told: a setting of the whole run, never of one input."""

from dataclasses import replace

from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import SELECTOR, Bundle


def with_target(bundle: Bundle, target_sigma: float) -> Bundle:
    """The bundle with its selector told another target noise: another bundle, another digest.

    Raises
    ------
    ArgumentError
        If the selector takes no target, or the target is not > 0.
    """
    positive("target_sigma", target_sigma)
    selector = bundle.networks.get(SELECTOR)
    if selector is None or "target" not in selector.kwargs:
        raise ArgumentError("target_sigma", f"must be left out: the selector of {bundle.name} "
                            "takes none", target_sigma)  # fmt: skip
    told = replace(selector, kwargs={**selector.kwargs, "target": target_sigma})
    return replace(bundle, networks={**bundle.networks, SELECTOR: told})
