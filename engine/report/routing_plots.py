"""Plots of input-dependent noise: which level was chosen, and which side limited the radius."""

import math
from typing import TYPE_CHECKING

import numpy as np

from dualsmooth.engine.report.drawing import COLOURS, tidy
from dualsmooth.engine.report.reading import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        y = labels.index(row.label) if by_class and row.label is not None else 0
        cells.setdefault((sigmas.index(row.sigma), y), []).append(row.correct)
    most = max(map(len, cells.values()))
    dots = axes.scatter(
        [x for x, _ in cells], [y for _, y in cells],
        s=[110 * len(hits) / most for hits in cells.values()],
        c=[100 * float(np.mean(hits)) for hits in cells.values()],
        cmap="cividis", vmin=0, vmax=100, edgecolors="#8c8c8c", linewidths=0.6,
    )  # fmt: skip
    bar = axes.figure.colorbar(dots, ax=axes)
    bar.set_label("certified correctly (%)")
    tidy(axes, r"routed $\sigma$ (input units)", "true class" if by_class else "")
    axes.set_xticks(range(len(sigmas)), [f"{sigma:g}" for sigma in sigmas])
    axes.set_yticks(range(len(labels)) if by_class else [],
                    [str(label) for label in labels] if by_class else [])  # fmt: skip
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
            axes.scatter([p[0] for p in chosen], [min(p[1], top) for p in chosen], s=13, alpha=0.55,
                         color=COLOURS[index], marker="os^"[index], linewidths=0, clip_on=False,
                         label=f"limited by {limit}: {len(chosen):,}",
                         rasterized=len(points) > 2000)  # fmt: skip
    axes.plot([0, top], [0, top], color="#8c8c8c", linewidth=0.8, linestyle="--")
    tidy(axes, "radius the classifiers allow", "radius the selector allows")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.legend(fontsize=8, loc="lower right")
