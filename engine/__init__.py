"""DualSmooth's engine: certify classifiers smoothed with input-dependent noise.

Names are loaded on first use, so importing this package needs neither torch nor SciPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualsmooth.engine.api import Smooth, certify
    from dualsmooth.engine.budget import Budget
    from dualsmooth.engine.certificate import Certificate
    from dualsmooth.engine.data.image_set import ImageSet
    from dualsmooth.engine.data.spec import load_images
    from dualsmooth.engine.methods.cascade import CascadeSmoothing
    from dualsmooth.engine.methods.dual import DualSmoothing
    from dualsmooth.engine.methods.fixed import FixedSmoothing
    from dualsmooth.engine.methods.insta import AnchorSmoothing
    from dualsmooth.engine.methods.insta_memory import MemorySmoothing
    from dualsmooth.engine.methods.semielastic import SemielasticSmoothing
    from dualsmooth.engine.methods.variational import VariationalSmoothing
    from dualsmooth.engine.models.bundle import Bundle
    from dualsmooth.engine.models.sources.load import load_bundle
    from dualsmooth.engine.results.certificates import Certificates
    from dualsmooth.engine.results.predict import predict

__all__ = [
    "AnchorSmoothing",
    "Budget",
    "Bundle",
    "CascadeSmoothing",
    "Certificate",
    "Certificates",
    "DualSmoothing",
    "FixedSmoothing",
    "ImageSet",
    "MemorySmoothing",
    "SemielasticSmoothing",
    "Smooth",
    "VariationalSmoothing",
    "certify",
    "load_bundle",
    "load_images",
    "predict",
]

_MODULES = {
    "AnchorSmoothing": "methods.insta",
    "Budget": "budget",
    "Bundle": "models.bundle",
    "CascadeSmoothing": "methods.cascade",
    "Certificate": "certificate",
    "Certificates": "results.certificates",
    "DualSmoothing": "methods.dual",
    "FixedSmoothing": "methods.fixed",
    "ImageSet": "data.image_set",
    "MemorySmoothing": "methods.insta_memory",
    "SemielasticSmoothing": "methods.semielastic",
    "Smooth": "api",
    "VariationalSmoothing": "methods.variational",
    "certify": "api",
    "load_bundle": "models.sources.load",
    "load_images": "data.spec",
    "predict": "results.predict",
}


if not TYPE_CHECKING:  # a checker that saw it would believe in every name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
