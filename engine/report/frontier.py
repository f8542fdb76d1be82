"""A frontier as files: figures as JSON, a table, a plot, and one page that holds them all."""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualsmooth.engine.files import json_text, write_files
from dualsmooth.engine.report.compare import cells
from dualsmooth.engine.report.drawing import (
    COLOURS,
    DASHES,
    RADIUS,
    Plot,
    inline_svg,
    pictures,
    tidy,
)
from dualsmooth.engine.report.markdown import head_of, table
from dualsmooth.engine.report.page import part
from dualsmooth.engine.runs.summary import Summary
from dualsmooth.engine.terminal.progress import step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPLORATION = (
    "A row is a certificate for each image at a point that was chosen before the votes. To choose "
    "a point by these rows is exploration: certify at it with another seed."
)


_HEAD = """<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""
*_NAMED, _GREY = COLOURS


@step("drawing the plot")
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
    files: dict[str, str | bytes] = {
        "md": f"# {plot.title}\n\n{said}\n\n{table(*lines)}\n",
        "html": _page(plot, *lines),
        **pictures(plot, ("png", "svg")),
        "json": json_text(about | {"rows": [s.to_dict() for s in summaries]}),
    }
    named = {f"frontier.{kind}": content for kind, content in files.items()}
    write_files(folder, named)
    return list(named)


def _page(plot: Plot, head: Sequence[str], *rows: Sequence[str]) -> str:
    title = escape(plot.title)
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in figures)
        + "</tr>\n"
        for name, *figures in rows
    )
    return (
        f'<!doctype html>\n<html lang="en">\n{_HEAD}<title>{title}</title>\n'
        f"<style>{part('page.css')}</style>\n<h1>{title}</h1>\n"
        f'<figure>{inline_svg(plot)}</figure>\n<p class="note">{escape(plot.caption)}</p>\n'
        f'<div class="scroll"><table class="figures">\n<thead><tr>{columns}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n</html>\n"
    )


def _draw(summaries: Sequence[Summary], figure: "Figure") -> None:
    """Points with a name in colour, those between them thin; fixed levels and the oracle dashed."""
    axes = figure.subplots()
    points = sorted((s for s in summaries if "median" in s.name), key=lambda s: s.acr)
    others = [s for s in summaries if not s.name.startswith("dual")]
    named = [s for s in points if s.name.split(", ")[-1].isalpha()]
    for s in points:
        if s not in named:
            axes.plot(*_curve(s), color=_GREY, linewidth=0.5, alpha=0.6)
    for place, s in enumerate(others):
        dashes = DASHES[1 + place % (len(DASHES) - 1)]
        axes.plot(*_curve(s), color=_GREY, linestyle=dashes, linewidth=1.2, label=s.name)
    for place, s in enumerate(named):
        label, colour = s.name.removeprefix("dual (median), "), _NAMED[place % len(_NAMED)]
        axes.plot(*_curve(s), color=colour, linewidth=1.6, label=label)
    tidy(axes, RADIUS, "certified accuracy (%)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


def _curve(s: Summary) -> tuple[list[float], list[float]]:
    return list(s.certified), [100 * s.accuracy(r) for r in s.certified]
