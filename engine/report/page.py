"""``report.html``: one file that needs no network, for desktop and phone, in light and dark."""

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any

import numpy as np

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.report import compare, facts
from dualsmooth.engine.report.drawing import COLOURS, DASHES, Plot, inline_svg
from dualsmooth.engine.report.plots import LIMITS, certified, largest_asked, limit_of
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.report.thumbnails import ENDS, thumbnails
from dualsmooth.engine.runs.summary import Row, Summary, bounds_of_shares
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
    common, apart = facts.shared_facts(runs)
    best = compare.leaders(summaries)
    text: str = template.render(
        style=part("page.css"),
        script=part("page.js"),
        data=_as_script(_data(runs, summaries, pictures)),
        title=", ".join(facts.bundles(runs)[:3]) or "Certification report",
        common=common,
        apart=apart,
        columns=list(dict.fromkeys(name for found in apart for name in found)),
        runs=list(zip(runs, summaries, best, strict=True)),
        marked=any(best),
        gaps=compare.against_best_fixed(summaries, runs),
        cells=compare.cells,
        signed=compare.signed,
        levels=_levels,
        wrong=lambda run: sum(not (row.correct or row.abstained) for row in run.rows),
        radii=radii,
        sign="≥" if at_least else ">",
        pairs=[
            (run.name, compare.compare(runs[0], run, radii, at_least=at_least)) for run in runs[1:]
        ],
        plots=[(plot, inline_svg(plot)) for plot in plots],
        looks=[_look(place) for place in range(len(runs))],
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
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["soft"] = _soft
    return environment.from_string(part("page.html"))


def _soft(name: str) -> Any:
    """A name that may go on in the next line after a joint of its own, and hardly elsewhere."""
    from markupsafe import Markup

    return Markup("<wbr>").join(re.findall(r"[^_/,=]*[_/,=]?", name))


def part(name: str) -> str:
    """The text of a file that pages are made of."""
    return resources.files("dualsmooth.engine.report").joinpath(name).read_text(encoding="utf-8")


def _as_script(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _levels(run: Run) -> str:
    """Noise levels that a run used."""
    used = sorted({row.sigma for row in run.rows if row.sigma is not None})
    if len(used) > 4:
        return f"{used[0]:.3g} to {used[-1]:.3g}"
    return ", ".join(f"{sigma:.3g}" for sigma in used)


_STROKES = dict(zip(DASHES, ("", "6 3", "9 3 2 3", "2 3"), strict=True))


def _look(place: int) -> tuple[str, str]:
    """Colour and dashes of the curve of the run at a place."""
    return COLOURS[place % len(COLOURS)], _STROKES[DASHES[place % len(DASHES)]]


def _data(
    runs: Sequence[Run], summaries: Sequence[Summary], pictures: dict[str, dict[int, str]]
) -> dict[str, Any]:
    grid = _round_radii(max((row.radius for run in runs for row in run.rows), default=1.0))
    described = []
    for run, summary in zip(runs, summaries, strict=True):
        counts = certified(run.rows, grid, summary.at_least)
        low, high = bounds_of_shares(counts, len(run.rows))
        curve = zip(counts / max(1, len(run.rows)), low, high, strict=True)
        described.append(
            {
                "name": run.name,
                "pictures": run.configuration.get("data_digest", ""),
                "classes": run.classes,
                "curve": [[round(100 * float(share), 1) for share in point] for point in curve],
                "rows": [_cells(row, number, run) for number, row in enumerate(run.rows)],
            }
        )
    return {"pictures": pictures, "ends": ENDS, "grid": list(map(float, grid)), "runs": described}


def _round_radii(largest: float) -> np.ndarray:
    """One to three hundred radii up to a little above the largest, each a short decimal."""
    rough = max(largest, 1e-9) / 250
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    return np.array(
        [float(f"{place * step:.6g}") for place in range(int(1.05 * largest / step) + 1)]
    )


def _cells(row: Row, number: int, run: Run) -> list[Any]:
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
        _reason(row, limit_of(row, largest_asked(run))),
    ]


def _reason(row: Row, limit: str) -> str:
    """Why the method abstained, or which side limited the radius."""
    if limit in ("asked", "next"):
        return LIMITS[limit][0]
    if limit == "votes":
        return "limited by votes: all agreed"
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
