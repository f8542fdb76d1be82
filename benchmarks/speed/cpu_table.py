"""Ratios of the CPU suite's times, and their table."""

from collections.abc import Sequence
from typing import Any

from dualsmooth.benchmarks.speed.rounds import Times, best, ratio


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


def table(report: dict[str, dict[str, Any]], ours: Sequence[str]) -> str:
    """Markdown: a row per contestant with its speed, share of the peak and ratios."""
    lines = [
        "| network | contestant, batch | votes/s | share of float32 peak | "
        + " | ".join(f"{name} is faster by" for name in ours)
        + " |",
        "|---" * (4 + len(ours)) + "|",
    ]
    for name, figures in report.items():
        for contestant, speed in figures["votes_per_second"].items():
            times = [_times(figures["ratio_to_peer"], mine, contestant) for mine in ours]
            lines.append(
                f"| {name} | {contestant} | {speed['per_second']:,} "
                f"| {100 * speed['share_of_peak']:.0f} % | {' | '.join(times)} |"
            )
    return "\n".join(lines) + "\n"


def _times(ratios: dict[str, dict[str, Any]], mine: str, contestant: str) -> str:
    """A ratio with its interval; empty where there is none."""
    for own, found in ratios.items():
        if _kind(own) == mine and contestant in found:
            figures = found[contestant]
            return "{:.2f} ({:.2f} to {:.2f})".format(figures["median"], *figures["interval_95"])
    return ""
