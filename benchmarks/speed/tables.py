"""Tables and pictures of the suites' figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualsmooth.benchmarks.speed.rounds import Times, best, ratio
from dualsmooth.engine.report.markdown import table

Axes = dict[str, list[dict[str, Any]]]
"""Measured points of each axis."""

COSTS = ("seconds", "processor seconds", "microseconds per draw")
HEADS = ("", "", "draws", *COSTS, "full", "peak MB")


def ratios(seconds: Times, ours: Sequence[str], wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Times of each peer at its best batch, divided by those of ours at its best precision.

    ``seconds`` are named ``KIND PRECISION`` or ``PEER BATCH``; what has none is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for fastest in filter(None, (_best_of(seconds, mine) for mine in ours)):
        peers = filter(None, (_best_of(seconds, peer) for peer in wanted))
        found[fastest] = {peer: ratio(seconds[peer], seconds[fastest]) for peer in peers}
    return found


def _best_of(seconds: Times, kind: str) -> str | None:
    variants = [key for key in seconds if _kind(key) == kind]
    return best(seconds, variants) if variants else None


def _kind(contestant: str) -> str:
    return contestant.rsplit(" ", 1)[0]


def cpu_table(report: dict[str, dict[str, Any]], ours: Sequence[str]) -> str:
    """Markdown: a row per contestant with its speed, share of the peak and ratios."""
    head = ["network", "contestant, batch", "votes/s", "share of float32 peak"]
    rows = []
    for name, figures in report.items():
        for contestant, speed in figures["votes_per_second"].items():
            times = [_times(figures["ratio_to_peer"], mine, contestant) for mine in ours]
            share = f"{100 * speed['share_of_peak']:.0f} %"
            rows.append([name, contestant, f"{speed['per_second']:,}", share, *times])
    return table([*head, *(f"{name} is faster by" for name in ours)], *rows) + "\n"


def _times(ratios: dict[str, dict[str, Any]], mine: str, contestant: str) -> str:
    """A ratio with its interval; empty where there is none."""
    for own, found in ratios.items():
        if _kind(own) == mine and contestant in found:
            figures = found[contestant]
            return "{:.2f} ({:.2f} to {:.2f})".format(figures["median"], *figures["interval_95"])
    return ""


def scaling_table(axes: Axes) -> str:
    """Markdown, one line per point; the last line of an axis has the exponent of its growth.

    Ranges are of the smallest to the largest over the rounds.
    """
    rows = [HEADS, ("---", *["---:"] * (len(HEADS) - 1))]
    for axis, points in axes.items():
        rows += [
            (
                axis,
                str(p[axis]),
                f"{p['draws']:,.0f}",
                f"{p['seconds']:.2f}",
                _range(p["processor_seconds"], p["processor_seconds_of_rounds"]),
                f"{1e6 * p['processor_seconds'] / p['draws']:.1f}",
                f"{p['occupancy']:.1%}",
                f"{p['memory_mb']:.0f}",
            )
            for p in points
        ]
        powers = exponents(axis, points)
        power = _range(float(np.median(powers)), powers)
        rows.append((f"{axis}: processor seconds grow as its power", power, *[""] * 6))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _range(middle: float, values: Sequence[float]) -> str:
    return f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})"


def exponents(axis: str, points: list[dict[str, Any]]) -> list[float]:
    """Slope of each round's processor seconds against the axis, both as logarithms."""
    values = np.log([float(p[axis]) for p in points])
    rounds = zip(*(p["processor_seconds_of_rounds"] for p in points), strict=True)
    return [float(np.polyfit(values, np.log(seconds), 1)[0]) for seconds in rounds]


def draw_picture(axes: Axes, path: Path) -> None:
    """Processor seconds, with their range over the rounds, and peak memory against every axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(axes), 5), layout="constrained")
    panels = figure.subplots(2, len(axes))
    for column, (axis, points) in zip(panels.T, axes.items(), strict=True):
        for panel, key in zip(column, ("processor_seconds", "memory_mb"), strict=True):
            values = [p[axis] for p in points]
            panel.plot(values, [p[key] for p in points], "o-")
            if key == "processor_seconds":
                rounds = [p["processor_seconds_of_rounds"] for p in points]
                panel.fill_between(values, [*map(min, rounds)], [*map(max, rounds)], alpha=0.2)
            panel.set_xscale("log", base=2)
            panel.set_ylim(bottom=0)
            panel.set_xlabel(axis)
            panel.set_ylabel("processor seconds" if key != "memory_mb" else "peak memory, MB")
    figure.savefig(path, dpi=80)
