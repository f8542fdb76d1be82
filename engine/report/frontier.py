"""A frontier as files: figures as JSON, a table, a plot, and one page that holds them all."""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualsmooth.engine.files import json_text, write_files
from dualsmooth.engine.report.compare import cells
from dualsmooth.engine.report.drawing import DASHES, RADIUS, Plot, inline_svg, pictures, tidy
from dualsmooth.engine.report.markdown import head_of, table
from dualsmooth.engine.runs.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPLORATION = (
    "A row is a certificate for each image at a point that was chosen before the votes. To choose "
    "a point by these rows is exploration: certify at it with another seed."
)


def write_frontier(summaries: Sequence[Summary], about: dict[str, Any], folder: Path) -> list[str]:
    """Write ``frontier.json``, ``.md``, ``.png``, ``.svg`` and ``.html``; returns their names."""
    votes = (
        f"{about['images']:,} images of {about['data']}, n0 = {about['n0']:,}, n = {about['n']:,}"
    )
    said = f"{votes}, alpha = {about['alpha']:g}, seed {about['seed']}. {EXPLORATION}"
    plot = Plot(
        "frontier", f"Operating points of {about['bundle']}", said, partial(_draw, summaries)
    )
    lines = [head_of(summaries[0]), *([s.name, *cells(s).values()] for s in summaries)]
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines)
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    title = escape(plot.title)
    page = (
        f'<!doctype html><meta charset="utf-8"><title>{title}</title>\n<h1>{title}</h1>\n'
        f"{inline_svg(plot)}\n<p>{escape(said)}</p>\n<table>\n{body}</table>\n"
    )
    files: dict[str, str | bytes] = {
        "md": f"# {plot.title}\n\n{said}\n\n{table(*lines)}\n",
        "html": page,
        **pictures(plot, ("png", "svg")),
        "json": json_text(about | {"rows": [s.to_dict() for s in summaries]}),
    }
    named = {f"frontier.{kind}": content for kind, content in files.items()}
    write_files(folder, named)
    return list(named)


def _draw(summaries: Sequence[Summary], figure: "Figure") -> None:
    """Fixed levels and the oracle in grey, points from small noise (dark) to large (light)."""
    from matplotlib import colormaps

    axes = figure.subplots()
    points = sorted((s for s in summaries if "median" in s.name), key=lambda s: s.acr)
    others = [s for s in summaries if not s.name.startswith("dual")]
    for place, s in enumerate(points):
        named = s.name.split(", ")[-1].isalpha()
        colour = colormaps["viridis"](place / max(1, len(points) - 1))
        label = s.name.removeprefix("dual (median), ") if named else None
        axes.plot(*_curve(s), color=colour, linewidth=2 if named else 0.6, label=label)
    for place, s in enumerate(others):
        dashes = DASHES[1 + place % (len(DASHES) - 1)]
        axes.plot(*_curve(s), color="#7f7f7f", linestyle=dashes, linewidth=1.2, label=s.name)
    tidy(axes, RADIUS, "certified accuracy (%)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


def _curve(s: Summary) -> tuple[list[float], list[float]]:
    return list(s.certified), [100 * s.accuracy(r) for r in s.certified]
