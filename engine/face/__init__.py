"""DualSmooth: sound certificates for classifiers smoothed with input-dependent noise.

`import dualsmooth as ds` gives the names below; each is loaded on first use, so that the import
itself needs neither torch nor SciPy.

Examples
--------
>>> import dualsmooth as ds
>>> certificates = ds.certify("digits-dual", ds.load_images("digits").images[:4], n=1000)
>>> len(certificates)
4
"""

from typing import TYPE_CHECKING, Any

from dualsmooth import engine

if TYPE_CHECKING:
    from dualsmooth.engine import *  # noqa: F403

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("dualsmooth")
        if name in engine.__all__:
            return getattr(engine, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*engine.__all__, "__version__"])
