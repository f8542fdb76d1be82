"""Search noise levels for anchor images and write them to a file."""

from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.files import check_target
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.methods.registry import method_with_all
from dualsmooth.engine.methods.search import Search
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import progress_bar


def search_anchors(
    bundle: Bundle, images: NDArray[np.generic], search: Search, settings: Settings, out: Path
) -> Anchors:
    """Search the noise level of each image, round it to the bundle's levels and write the anchors.

    Images have shape (count, height, width, channels). Few levels make large regions; a bundle
    without levels keeps what the search found. The budget of the settings is not used.
    """
    from dualsmooth.engine.runtime.session import Session

    check_target(out)
    if not out.parent.is_dir():
        raise FileError(out, "must be in an existing folder", f"{out.parent}, which is none")
    with Session.open(method_with_all(bundle), settings) as session:
        searches = session.search(images, search)
        bar = progress_bar(iterable=searches, desc=search.name, total=len(images), unit="image")
        found = dict(bar)
    sigmas = [nearest_level(found[i], bundle.sigmas) for i in range(len(images))]
    anchors = Anchors(images, sigmas)
    anchors.save(out)
    return anchors


def nearest_level(sigma: float, levels: tuple[float, ...]) -> float:
    """The level nearest on the logarithmic scale; sigma itself without levels."""
    return min(levels, key=lambda level: abs(log(level / sigma)), default=sigma)
