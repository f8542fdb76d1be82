"""Small pictures of a run's images, if its data can be read again and are the same."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dualsmooth.engine.data import as_unit_float, load_images
from dualsmooth.engine.errors import DualSmoothError
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.run_digests import data_digest

MOST, LARGEST = 1000, 64
"""Images with a thumbnail in one report, and pixels of their longer side."""


def thumbnails(runs: Sequence[Run]) -> tuple[dict[str, dict[int, str]], list[str]]:
    """PNG data URIs by data digest and image id, and why pictures are missing.

    A run's images are read again from the SPEC in its ``run.json``. Unless their digest is the
    recorded one they are not shown: pictures beside the wrong rows would be worse than none.
    """
    found: dict[str, dict[int, str]] = {}
    notes: list[str] = []
    for run in runs:
        key = run.configuration.get("data_digest", "")
        if not key or key in found:
            continue
        ids = [row.image_id for row in run.rows if row.image_id is not None]
        try:
            data = load_images(run.configuration["data"])
            fits = max(ids, default=-1) < len(data)
            if not (fits and data_digest(data, ids) == key):
                notes.append(f"{run.name}: no thumbnails, the data are not those of the run")
                continue
        except DualSmoothError as error:
            notes.append(f"{run.name}: no thumbnails, {error}")
            continue
        found[key] = {i: _uri(as_unit_float(data.images[i])) for i in ids[:MOST]}
        if len(ids) > MOST:
            notes.append(f"{run.name}: thumbnails of the first {MOST:,} images only")
    return found, notes


def _uri(pixels: "np.ndarray") -> str:
    grey = pixels.shape[-1] == 1
    levels = np.rint(255 * pixels).astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if grey else levels[..., :3])
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
