"""Plots with a panel per run, on one x-axis: certified radii, and noise levels routed to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualsmooth.engine.report.drawing import ABSTAINED, CORRECT, RADIUS, WRONG, Plot, plain, tidy
from dualsmooth.engine.report.reading import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE: dict[str, Any] = {"loc": "left", "fontsize": 8.5}


def conditions(runs: Sequence[Run]) -> str:
    """Images, votes and alpha of every run, once where they are equal."""
    said: dict[str, list[str]] = {}
    for run in runs:
        said.setdefault(f"{len(run.rows):,} images, {run.conditions}", []).append(run.name)
    if len(said) == 1:
        return next(iter(said)) + "."
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in said.items()) + "."


def radii_plot(runs: Sequence[Run]) -> Plot:
    """Histograms of certified radii, in bins that all runs share."""
    largest = max(row.radius for run in runs for row in run.rows) or 1.0
    bins = np.linspace(0, largest, 41).tolist()

    def draw(figure: "Figure") -> None:
        for axes, run in zip(_stacked(figure, runs), runs, strict=True):
            groups = {
                "correct": [row.radius for row in run.rows if row.correct],
                "wrong": [row.radius for row in run.rows if not (row.correct or row.abstained)],
                "abstained": [0.0 for row in run.rows if row.abstained],
            }
            colours: Any = [CORRECT, WRONG, ABSTAINED]
            values = list(groups.values())
            look: Any = {"histtype": "stepfilled", "stacked": True, "label": [*groups]}
            axes.hist(values, bins, color=colours, **look)
            tidy(axes, "", "")
            axes.set_title(plain(run.name), **TITLE)
        axes.set_xlabel(RADIUS)
        axes.set_xlim(0, largest)
        figure.supylabel("images", fontsize=9)
        handles, labels = axes.get_legend_handles_labels()
        look = {"loc": "outside upper left", "ncols": 3, "fontsize": 8}
        figure.legend(handles[::-1], labels[::-1], **look)

    caption = "Images by certified radius, rounded down; abstentions stand at 0."
    height = 1.1 + 0.9 * len(runs)
    return Plot("radii", "Certified radii", caption, draw, conditions(runs), height)


def _stacked(figure: "Figure", runs: Sequence[Run]) -> "Sequence[Axes]":
    """Panels one below the other, on one x-axis."""
    return list(figure.subplots(len(runs), sharex=True, squeeze=False)[:, 0])


MOST_CLASSES = 20
"""With more classes the rows of the map are left out: one row holds every image."""


def sigmas_plot(runs: Sequence[Run]) -> Plot:
    """Images by true class, where there are few, and the noise level they were routed to."""
    labels = sorted({row.label for run in runs for row in run.rows if row.label is not None})
    unlabelled = any(row.label is None for run in runs for row in run.rows)
    by_class = 0 < len(labels) <= MOST_CLASSES and not unlabelled
    shown = labels if by_class else [0]

    def draw(figure: "Figure") -> None:
        panels = _stacked(figure, runs)
        sigmas = sorted({row.sigma for run in runs for row in run.rows if row.sigma is not None})
        for axes, run in zip(panels, runs, strict=True):
            dots = _sigma_panel(axes, run, sigmas, labels if by_class else [])
            axes.set_title(plain(run.name), **TITLE)
            named = [plain(run.class_name(label)) for label in labels] if by_class else []
            axes.set_yticks(range(len(named)), named)
            axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel("noise level sigma (input units)")
        axes.set_xticks(range(len(sigmas)), [f"{sigma:.3g}" for sigma in sigmas])
        axes.set_xlim(-0.5, len(sigmas) - 0.5)
        figure.colorbar(dots, ax=panels, aspect=40).set_label("certified correctly (%)")

    caption = (
        "Images by true class and routed sigma: area is the number of images, colour the share "
        "certified correctly at radius 0. Images without a level are left out."
    )
    height = 1.0 + len(runs) * (0.35 + 0.17 * len(shown))
    return Plot("sigmas", "Noise level routed to", caption, draw, conditions(runs), height)


def _sigma_panel(axes: "Axes", run: Run, sigmas: list[float], labels: list[int]) -> Any:
    """Images by true class and routed sigma; area is their number, colour the share correct."""
    found: dict[tuple[int, int], list[bool]] = {}
    for row in run.rows:
        if row.sigma is not None:
            level = labels.index(row.label) if labels and row.label is not None else 0
            found.setdefault((sigmas.index(row.sigma), level), []).append(row.correct)
    most = max(map(len, found.values()))
    x, y = ([place[axis] for place in found] for axis in (0, 1))
    areas = [110 * len(hits) / most for hits in found.values()]
    shares = [100 * float(np.mean(hits)) for hits in found.values()]
    edges: Any = {"edgecolors": "#8c8c8c", "linewidths": 0.6}
    tidy(axes, "", "true class" if labels else "")
    return axes.scatter(x, y, areas, shares, cmap="cividis", vmin=0, vmax=100, **edges)
