"""``report.html``: one file that needs no network, for desktop and phone, in light and dark."""

import base64
import io
import json
from collections.abc import Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any

import numpy as np
from PIL import Image

from dualsmooth.engine.data.image_set import data_digest
from dualsmooth.engine.data.spec import images_of_run
from dualsmooth.engine.errors import ArgumentError, DualSmoothError
from dualsmooth.engine.images import as_unit_float
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.printable import printable
from dualsmooth.engine.report.compare import compare
from dualsmooth.engine.report.drawing import Plot, inline_svg
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import Row, Summary
from dualsmooth.engine.runs.table import radius_text


def page(
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    plots: Sequence[Plot],
    data: str | None = None,
) -> str:
    """The whole page as text, with thumbnails of the runs whose images ``data`` names."""
    template = _template()
    pictures, notes = thumbnails(runs, data)
    radii, at_least = list(summaries[0].certified), summaries[0].at_least
    text: str = template.render(
        style=_part("page.css"),
        script=_part("page.js"),
        data=_as_script(_data(runs, pictures)),
        runs=list(zip(runs, summaries, strict=True)),
        radii=radii,
        sign="≥" if at_least else ">",
        pairs=[(run.name, compare(runs[0], run, radii, at_least=at_least)) for run in runs[1:]],
        plots=[(plot, inline_svg(plot)) for plot in plots],
        notes=[*(text for run in runs for text in run.warnings), *notes],
        version=metadata.version("dualsmooth"),
    )
    return text


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        hint = install_command("report")
        raise ArgumentError("html", "needs jinja2", "jinja2 not installed", hint) from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_part("page.html"))


def _part(name: str) -> str:
    return resources.files("dualsmooth.engine.report").joinpath(name).read_text(encoding="utf-8")


def _as_script(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _data(runs: Sequence[Run], pictures: dict[str, dict[int, str]]) -> dict[str, Any]:
    return {
        "pictures": pictures,
        "runs": [
            {
                "name": run.name,
                "pictures": run.configuration.get("data_digest", ""),
                "rows": [_cells(row, number) for number, row in enumerate(run.rows)],
            }
            for run in runs
        ],
    }


def _cells(row: Row, number: int) -> list[Any]:
    """Image, truth, class, radius, sigma, votes, votes drawn, outcome, reason."""
    outcome = "abstained" if row.abstained else "correct" if row.correct else "wrong"
    if row.label is None and not row.abstained and not row.correct:
        outcome = "certified"
    return [
        number if row.image_id is None else row.image_id,
        row.label,
        row.predicted,
        float(radius_text(row.radius)[:-2]),  # four decimals, cut off
        row.sigma,
        row.votes,
        row.draws or None,
        outcome,
        _reason(row),
    ]


def _reason(row: Row) -> str:
    """Why the method abstained, or which side limited the radius."""
    if not row.limit:
        return ""
    if not row.abstained:
        return f"limited by {row.limit}"
    votes = f" ({row.votes} votes)" if row.votes else ""
    if row.limit == "selector":
        return "selector: no noise level keeps more than half of its votes"
    if row.limit == "region":
        return "region: another noise level or answer begins here"
    return f"classifier: the bound is not above 1/2{votes}"


MOST, LARGEST = 1000, 64
"""Images with a thumbnail in one report, and pixels of their longer side."""


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
        shown = zip(ids[:MOST], data.places(ids[:MOST]), strict=True)
        found[key] = {i: _uri(as_unit_float(data.images[place])) for i, place in shown}
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
