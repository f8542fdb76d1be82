"""The figures of `dualsmooth.benchmarks.scaling` as a table and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

Axes = dict[str, list[dict[str, Any]]]
"""Measured points of each axis."""

HEADS = (
    "",
    "",
    "draws",
    "seconds",
    "processor seconds",
    "microseconds per draw",
    "full",
    "peak MB",
)


def table(axes: Axes) -> str:
    """Markdown, one line per point; the last line of an axis has the exponent of its growth."""
    rows = [HEADS, ("---", *["---:"] * (len(HEADS) - 1))]
    for axis, points in axes.items():
        rows += [
            (
                axis, str(p[axis]), f"{p['draws']:,.0f}", f"{p['seconds']:.2f}",
                f"{p['processor_seconds']:.2f}", f"{1e6 * p['processor_seconds'] / p['draws']:.1f}",
                f"{p['occupancy']:.1%}", f"{p['memory_mb']:.0f}",
            )
            for p in points
        ]  # fmt: skip
        power = f"{exponent(axis, points):.2f}"
        rows.append((f"{axis}: processor seconds grow as its power", power, *[""] * 6))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def exponent(axis: str, points: list[dict[str, Any]]) -> float:
    """Slope of the processor seconds against the axis, both as logarithms."""
    values, seconds = ([float(p[key]) for p in points] for key in (axis, "processor_seconds"))
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def draw_picture(axes: Axes, path: Path) -> None:
    """Processor seconds and peak memory against every axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(axes), 5), layout="constrained")
    panels = figure.subplots(2, len(axes))
    for column, (axis, points) in zip(panels.T, axes.items(), strict=True):
        for panel, key in zip(column, ("processor_seconds", "memory_mb"), strict=True):
            panel.plot([p[axis] for p in points], [p[key] for p in points], "o-")
            panel.set_xscale("log", base=2)
            panel.set_ylim(bottom=0)
            panel.set_xlabel(axis)
            panel.set_ylabel("processor seconds" if key != "memory_mb" else "peak memory, MB")
    figure.savefig(path, dpi=80)
