"""Plots of a report: what was certified, at which radius and noise level, limited by what."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from dualsmooth.engine.report.drawing import (
    ABSTAINED,
    COLOURS,
    CORRECT,
    DASHES,
    WRONG,
    Plot,
    plain,
    tidy,
)
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import BAND, Row, bounds_of_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RADIUS = r"$\ell_2$ radius (input units)"
_POINTS = 401
Panel = Callable[["Axes", Run], None]


def plots(runs: Sequence[Run], *, at_least: bool = False) -> list[Plot]:
    """Every plot the runs have data for, certified accuracy first."""
    seen = [run for run in runs if run.rows]
    if not seen:
        return []
    found = [_curves(seen, at_least), _panels("radii", seen)]
    bound = [run for run in seen if any(row.selector_radius is not None for row in run.rows)]
    sigmas = {run.name: {row.sigma for row in run.rows} - {None} for run in seen}
    routed = [run for run in seen if len(sigmas[run.name]) > 1 or (run in bound)]
    if routed:
        found.append(_panels("sigmas", routed))
    if bound:
        found.append(_panels("binding", bound))
    if drawn := [run for run in seen if any(row.draws for row in run.rows)]:
        found.append(_draws(drawn))
    return found


def conditions(runs: Sequence[Run]) -> str:
    """Images, votes and alpha of every run, once where they are equal."""
    said: dict[str, list[str]] = {}
    for run in runs:
        said.setdefault(f"{len(run.rows):,} images, {run.conditions}", []).append(run.name)
    if len(said) == 1:
        return next(iter(said)) + "."
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in said.items()) + "."


def _curves(runs: Sequence[Run], at_least: bool) -> Plot:
    sign = "at or above" if at_least else "strictly above"
    caption = (
        f"Share of images certified correctly with a radius {sign} r; abstentions count against. "
        f"Bands: {BAND:.0%} Clopper-Pearson intervals, at each radius by itself. {conditions(runs)}"
    )
    draw = partial(_draw_curves, runs=runs, at_least=at_least)
    return Plot("curves", "Certified accuracy", caption, draw)


def _draw_curves(figure: "Figure", runs: Sequence[Run], at_least: bool) -> None:
    draw_curves(figure.subplots(), runs, at_least)


def draw_curves(axes: "Axes", runs: Sequence[Run], at_least: bool) -> None:
    """Certified accuracy (%) against the radius, one curve and one 95 % band per run."""
    largest = max(row.radius for run in runs for row in run.rows)
    grid = np.linspace(0.0, 1.05 * largest or 1.0, _POINTS)
    for index, run in enumerate(runs):
        counts = certified(run.rows, grid, at_least)
        colour, images = COLOURS[index % len(COLOURS)], len(run.rows)
        low, high = (100 * end for end in bounds_of_shares(counts, images))
        axes.fill_between(grid, low, high, step="post", color=colour, alpha=0.18, linewidth=0)
        _step(axes, index, run, grid, 100 * counts / images)
    tidy(axes, RADIUS, "certified accuracy (%)")
    axes.set_xlim(0, grid[-1])
    axes.set_ylim(0, 100)
    axes.legend(fontsize=8)


def _step(axes: "Axes", index: int, run: Run, x: ArrayLike, y: ArrayLike) -> None:
    """A run's curve, in the look of its place among the runs."""
    look: Any = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
    axes.step(x, y, where="post", label=plain(run.name), linewidth=1.5, **look)


def certified(rows: Sequence[Row], grid: np.ndarray, at_least: bool = False) -> np.ndarray:
    """Number of images certified beyond each radius of a grid."""
    correct = np.sort([row.radius for row in rows if row.correct])
    above = len(correct) - np.searchsorted(correct, grid, side="left" if at_least else "right")
    if at_least:
        return np.asarray(above)
    at_itself = np.sort([row.radius for row in rows if row.correct and row.exceeds_radius])
    first, last = (np.searchsorted(at_itself, grid, side=side) for side in ("left", "right"))
    return np.asarray(above + last - first)


def _panels(name: str, runs: Sequence[Run]) -> Plot:
    title, panel, caption = _PANELS[name]

    def draw(figure: "Figure") -> None:
        rows = figure.subplots(len(runs), squeeze=False)[:, 0]
        for axes, run in zip(rows, runs, strict=True):
            panel(axes, run)
            if len(runs) > 1 or name == "binding":
                axes.set_title(plain(run.name), loc="left")

    return Plot(name, title, f"{caption} {conditions(runs)}", draw, len(runs))


def _radius_panel(axes: "Axes", run: Run) -> None:
    groups = (
        ("correct", CORRECT, [row.radius for row in run.rows if row.correct]),
        ("wrong", WRONG, [r.radius for r in run.rows if not (r.correct or r.abstained)]),
        ("abstained", ABSTAINED, [0.0 for row in run.rows if row.abstained]),
    )
    largest = max(row.radius for row in run.rows) or 1.0
    bins, values = np.linspace(0, largest, 31).tolist(), [radii for _, _, radii in groups]
    colours = [colour for _, colour, _ in groups]
    labels = [f"{label} ({len(radii):,})" for label, _, radii in groups]
    axes.hist(values, bins, stacked=True, color=colours, label=labels)
    tidy(axes, RADIUS, "images")
    axes.margins(y=0.25)  # room for the legend above every bar
    axes.legend(fontsize=8, ncols=3, loc="upper center")


def _draws(runs: Sequence[Run]) -> Plot:
    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for index, run in enumerate(runs):
            votes = np.sort([row.draws for row in run.rows])
            share = 100 * np.arange(1, len(votes) + 1) / len(votes)
            _step(axes, index, run, [votes[0], *votes], [0, *share])
        axes.set_xscale("log")
        tidy(axes, "votes used (log scale)", "images decided (%)")
        axes.set_ylim(0, 103)
        axes.legend(fontsize=8)

    caption = "Share of images decided with at most so many votes, over all networks. "
    return Plot("draws", "Votes per image", caption + conditions(runs), draw)


MOST_CLASSES = 20
"""With more classes the rows of the map are left out: one row holds every image."""


def sigma_panel(axes: "Axes", run: Run) -> None:
    """Images by true class and routed sigma; area is their number, colour the share correct."""
    rows = [row for row in run.rows if row.sigma is not None]
    labels = sorted({row.label for row in rows if row.label is not None})
    by_class = 0 < len(labels) <= MOST_CLASSES and all(row.label is not None for row in rows)
    sigmas = sorted({row.sigma for row in rows if row.sigma is not None})
    cells: dict[tuple[int, int], list[bool]] = {}
    for row in rows:
        assert row.sigma is not None
        level = labels.index(row.label) if by_class and row.label is not None else 0
        cells.setdefault((sigmas.index(row.sigma), level), []).append(row.correct)
    most = max(map(len, cells.values()))
    x, y = ([place[axis] for place in cells] for axis in (0, 1))
    areas = [110 * len(hits) / most for hits in cells.values()]
    shares = [100 * float(np.mean(hits)) for hits in cells.values()]
    edges: Any = {"edgecolors": "#8c8c8c", "linewidths": 0.6}
    dots = axes.scatter(x, y, areas, shares, cmap="cividis", vmin=0, vmax=100, **edges)
    bar = axes.figure.colorbar(dots, ax=axes)
    bar.set_label("certified correctly (%)")
    tidy(axes, r"routed $\sigma$ (input units)", "true class" if by_class else "")
    axes.set_xticks(range(len(sigmas)), [f"{sigma:g}" for sigma in sigmas])
    named = [str(label) for label in labels] if by_class else []
    axes.set_yticks(range(len(named)), named)
    axes.margins(x=0.3, y=0.1)


def binding_panel(axes: "Axes", run: Run) -> None:
    """Radius the selector's side allows against that of the classifier's side."""
    points = [
        (row.classifier_radius, row.selector_radius, row.limit)
        for row in run.rows
        if row.classifier_radius is not None and row.selector_radius is not None
    ]
    finite = [value for point in points for value in point[:2] if math.isfinite(value)]
    top = 1.08 * max(finite, default=1.0)
    for index, limit in enumerate(("classifier", "selector", "both")):
        chosen = [point for point in points if point[2] == limit]
        if chosen:
            x, y = [p[0] for p in chosen], [min(p[1], top) for p in chosen]
            look: Any = {"color": COLOURS[index], "marker": "os^"[index], "linewidths": 0}
            dots = axes.scatter(x, y, 13, alpha=0.55, clip_on=False, **look)
            label = f"limited by {limit}: {len(chosen):,}"
            dots.set(label=label, rasterized=len(points) > 2000)
    axes.plot([0, top], [0, top], color="#8c8c8c", linewidth=0.8, linestyle="--")
    tidy(axes, "radius the classifiers allow", "radius the selector allows")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.legend(fontsize=8, loc="lower right")


_PANELS: dict[str, tuple[str, Panel, str]] = {
    "radii": (
        "Certified radii",
        _radius_panel,
        "Images by certified radius, rounded down; abstentions stand at 0.",
    ),
    "sigmas": (
        "Noise level routed to",
        sigma_panel,
        "Images by true class and routed sigma: area is the number of images, colour the share "
        "certified correctly at radius 0. Images without a level are left out.",
    ),
    "binding": (
        "What limits the radius",
        binding_panel,
        "One point per certified image. Below the diagonal the selector limits the radius, above "
        "it the classifier; on the top edge no selector is needed, because every level agrees.",
    ),
}
"""Title, what is drawn for each run, and caption."""
