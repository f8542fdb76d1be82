"""Small pictures of the images that a report is about."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dualsmooth.engine.data.image_set import data_digest
from dualsmooth.engine.data.spec import images_of_run
from dualsmooth.engine.errors import ArgumentError, DualSmoothError
from dualsmooth.engine.images import as_unit_float
from dualsmooth.engine.printable import printable
from dualsmooth.engine.report.reading import Run

MOST, LARGEST, ENDS = 1000, 64, 8
"""Images with a thumbnail in one report, pixels of their longer side, and how many images are shown
of the smallest radii and of the largest.
"""


def thumbnails(
    runs: Sequence[Run], spec: str | None = None
) -> tuple[dict[str, dict[int, str]], list[str]]:
    """PNG data URIs by data digest and image id, and why pictures are missing.

    Images are read again from the SPEC that the user gave; a run may come from anywhere, so of
    what it names itself no file is opened. Unless their digest is the recorded one they are not
    shown: pictures beside the wrong rows would be worse than none.
    """
    found: dict[str, dict[int, str]] = {}
    notes: list[str] = []
    for run in runs:
        key = run.configuration.get("data_digest", "")
        if not key or key in found:
            continue
        ids = [row.image_id for row in run.rows if row.image_id is not None]
        try:
            data = images_of_run(run.configuration, spec)
            if data is None:
                named = printable(run.configuration["data"])
                notes.append(f"{run.name}: no thumbnails without --data {named}")
                continue
            if data_digest(data, ids) != key:
                notes.append(f"{run.name}: no thumbnails, the data are not those of the run")
                continue
        except DualSmoothError as error:
            notes.append(f"{run.name}: no thumbnails, {error}")
            continue
        alike = [other for other in runs if other.configuration.get("data_digest") == key]
        shown = _chosen(alike, set(ids))
        places = zip(shown, data.places(shown), strict=True)
        found[key] = {i: _uri(as_unit_float(data.images[place])) for i, place in places}
        if len(ids) > len(shown):
            notes.append(f"{run.name}: thumbnails of {len(shown):,} images only")
    if spec is not None and not found:
        hint = next((note.replace("no thumbnails, ", "") for note in notes), "tables have none")
        raise ArgumentError("data", "must name the images of a run", spec, hint)
    return found, notes


def _chosen(runs: Sequence[Run], known: set[int]) -> list[int]:
    """Ids of images with the smallest and the largest radii of each run, then the first ones."""
    chosen: dict[int, None] = {}
    for run in runs:
        certified = [row for row in run.rows if not row.abstained]
        ranked = [row.image_id for row in sorted(certified, key=lambda row: row.radius)]
        chosen |= dict.fromkeys(i for i in ranked[:ENDS] + ranked[-ENDS:] if i in known)
    return list(chosen | dict.fromkeys(sorted(known)))[: max(MOST, len(chosen))]


def _uri(pixels: np.ndarray) -> str:
    grey = pixels.shape[-1] == 1
    levels = np.rint(255 * pixels).astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if grey else levels[..., :3])
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
