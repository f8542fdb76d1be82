"""DualSmooth's engine: certify classifiers smoothed with input-dependent noise.

Names are loaded on first use, so importing this package needs neither torch nor SciPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualsmooth.engine.budget import Budget
    from dualsmooth.engine.certificate import Certificate
    from dualsmooth.engine.certification import certify
    from dualsmooth.engine.methods.dual import DualSmoothing
    from dualsmooth.engine.methods.fixed import FixedSmoothing
    from dualsmooth.engine.models.bundle import Bundle, load_bundle
    from dualsmooth.engine.smooth import Smooth

__all__ = [
    "Budget",
    "Bundle",
    "Certificate",
    "DualSmoothing",
    "FixedSmoothing",
    "Smooth",
    "certify",
    "load_bundle",
]

_MODULES = {
    "Budget": "budget",
    "Bundle": "models.bundle",
    "Certificate": "certificate",
    "DualSmoothing": "methods.dual",
    "FixedSmoothing": "methods.fixed",
    "Smooth": "smooth",
    "certify": "certification",
    "load_bundle": "models.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
