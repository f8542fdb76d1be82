"""Plots of a report: what was certified, at which radius and noise level, limited by what."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from dualsmooth.engine.report.drawing import ABSTAINED, COLOURS, DASHES, RADIUS, Plot, plain, tidy
from dualsmooth.engine.report.panels import conditions, radii_plot, sigmas_plot
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import BAND, Row, bounds_of_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 401


def plots(runs: Sequence[Run], *, at_least: bool = False) -> list[Plot]:
    """Every plot the runs have data for, certified accuracy first."""
    seen = [run for run in runs if run.rows]
    if not seen:
        return []
    found = [_curves(seen, at_least)]
    if bound := [run for run in seen if any(row.limit for row in run.rows)]:
        found.append(_limits(bound))
    if whole := [run for run in seen if not run.origin]:  # others lack the radii of wrong images
        found.append(radii_plot(whole))
    levels = {run.name: {row.sigma for row in run.rows} - {None} for run in seen}
    if routed := [run for run in seen if len(levels[run.name]) > 1]:
        found.append(sigmas_plot(routed))
    if any(len({row.draws for row in run.rows}) > 1 for run in seen):
        found.append(_draws([run for run in seen if any(row.draws for row in run.rows)]))
    return found


def _curves(runs: Sequence[Run], at_least: bool) -> Plot:
    sign = "at or above" if at_least else "strictly above"
    caption = (
        f"Share of images certified correctly with a radius {sign} r; abstentions count against. "
        f"Bands: {BAND:.0%} Clopper-Pearson intervals, at each radius by itself."
    )

    def draw(figure: "Figure") -> None:
        draw_curves(figure.subplots(), runs, at_least)

    return Plot("curves", "Certified accuracy", caption, draw, conditions(runs))


def draw_curves(axes: "Axes", runs: Sequence[Run], at_least: bool) -> None:
    """Certified accuracy (%) against the radius, one curve and one 95 % band per run."""
    grid = radius_grid(runs)
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


def radius_grid(runs: Sequence[Run]) -> np.ndarray:
    """Radii at which curves are drawn: from 0 to a little above the largest."""
    largest = max(row.radius for run in runs for row in run.rows)
    return np.linspace(0.0, 1.05 * largest or 1.0, POINTS)


def _step(axes: "Axes", index: int, run: Run, x: ArrayLike, y: ArrayLike) -> None:
    """A run's curve, in the look of its place; later ones are thinner, so equal ones show."""
    look: Any = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
    width = max(1.3, 2.8 - 0.4 * index)
    axes.step(x, y, where="post", label=plain(run.name), linewidth=width, **look)


def certified(rows: Sequence[Row], grid: np.ndarray, at_least: bool = False) -> np.ndarray:
    """Number of images certified beyond each radius of a grid."""
    correct = np.sort([row.radius for row in rows if row.correct])
    above = len(correct) - np.searchsorted(correct, grid, side="left" if at_least else "right")
    if at_least:
        return np.asarray(above)
    at_itself = np.sort([row.radius for row in rows if row.correct and row.exceeds_radius])
    first, last = (np.searchsorted(at_itself, grid, side=side) for side in ("left", "right"))
    return np.asarray(above + last - first)


LIMITS = {
    "votes": ("votes: all agreed, only more of them would certify more", "#0a9c74"),
    "classifier": ("classifier: some noisy copies are given another class", "#2f7fc1"),
    "selector": ("selector: another noise level may be chosen farther out", "#d55e00"),
    "both": ("selector and classifier alike", "#c46a9c"),
    "region": ("region: another noise level or answer begins", "#b28700"),
    "asked": ("asked for no larger radius", "#6a5acd"),
    "next": ("the next larger radius asked for was not shown", "#8c564b"),
    "abstained": ("abstained: nothing is certified", ABSTAINED),
}
"""What bounded a radius, in words, and its colour."""


def limit_of(row: Row, asked: float) -> str:
    """Key of `LIMITS` for an image; ``asked`` is the largest radius the run asked for."""
    if row.abstained:
        return "abstained"
    if row.radius >= asked:
        return "asked"
    return "next" if row.exceeds_radius else row.limit


def largest_asked(run: Run) -> float:
    """Largest radius of a ``decide`` run; infinite without one."""
    return max(map(float, run.configuration.get("radii") or [math.inf]))


def _limits(runs: Sequence[Run]) -> Plot:
    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        counts = [Counter(limit_of(row, largest_asked(run)) for row in run.rows) for run in runs]
        left = np.zeros(len(runs))
        for key, (label, colour) in LIMITS.items():
            shares = [100 * c[key] / len(run.rows) for c, run in zip(counts, runs, strict=True)]
            if not any(shares):
                continue
            bars = axes.barh(range(len(runs)), shares, 0.5, left, color=colour, label=label)
            texts = [f"{share:.0f} %" if share >= 7 else "" for share in shares]
            axes.bar_label(bars, texts, label_type="center", color="white", fontsize=8)
            left += shares
        for place, run in enumerate(runs):
            axes.text(0, place - 0.36, plain(run.name), fontsize=8.5)
        tidy(axes, "images (%)", "")
        axes.set(xlim=(0, 100), ylim=(len(runs) - 0.6, -0.75), yticks=[])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside upper left", fontsize=8)

    caption = "What would have to change for a larger radius: every image stands in one part."
    height = 1.5 + 0.42 * len(runs)
    return Plot("limits", "What bounded the radius", caption, draw, conditions(runs), height)


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
        figure.legend(loc="outside upper left", fontsize=8)

    caption = "Share of images decided with at most so many votes, over all networks."
    height = 2.6 + 0.2 * len(runs)
    return Plot("draws", "Votes per image", caption, draw, conditions(runs), height)
