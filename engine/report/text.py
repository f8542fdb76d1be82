"""Certified-accuracy tables for the terminal, as wide as it is."""

from collections.abc import Sequence
from math import ceil

from dualsmooth.engine.report.compare import Column, Gap, cells, leaders, signed
from dualsmooth.engine.runs.summary import Summary

WIDTH, NAME_WIDTH, CELL = 80, 24, 7
UNLABELLED = "no labels, so none counts as correct; the radii are in certificates.tsv"


def text_table(summaries: Sequence[Summary], width: int = WIDTH, gaps: Sequence[Gap] = ()) -> str:
    """One row per run: certified accuracy (%) at each radius and ACR, the best of several starred.

    Further rows say how far runs are above (+) or below (-) the best fixed sigma. More radii than
    fit in ``width`` columns go into further tables below the first; names have what room is left.
    """
    radii = list(summaries[0].certified)
    tables = ceil(len(radii) / max(1, (width - NAME_WIDTH) // CELL - 1))
    per_table = ceil(len(radii) / tables) if tables else 1
    most = max(NAME_WIDTH, width - (per_table + 1) * CELL)
    column = min(most, max(NAME_WIDTH, *(len(s.name) + 1 for s in summaries)))
    parts = [radii[i : i + per_table] for i in range(0, max(1, len(radii)), per_table)]
    lines = [line for part in parts for line in _table(summaries, part, column, gaps)]
    return "\n".join(line.rstrip() for line in [*lines, *_footer(summaries)])


def _table(
    summaries: Sequence[Summary], radii: Sequence[float], column: int, gaps: Sequence[Gap]
) -> list[str]:
    sign = ">=" if summaries[0].at_least else ">"
    head = f"{f'radius {sign}':<{column}}" + "".join(_cell(_number(r)) for r in radii)
    lines = [head + _cell("ACR"), "-" * (len(head) + CELL)]
    for s, best in zip(summaries, leaders(summaries), strict=True):
        shown: list[Column] = [*radii, "ACR"]
        row = {name: cells(s)[name] for name in shown}
        marked = (_cell(text, "*" if name in best else " ") for name, text in row.items())
        lines.append(_name(s.name, column) + "".join(marked))
    if gaps:
        lines += ["", "above (+) or below (-) the best fixed sigma at each radius, in points"]
    for gap in gaps:
        points = [gap.points[r] for r in radii]
        texts = ["" if p is None else signed(p) for p in points] + [signed(gap.acr, 3)]
        lines.append(_name(gap.name, column) + "".join(map(_cell, texts)))
    return [*lines, ""]


def _cell(text: str, mark: str = " ") -> str:
    return f"{text + mark:>{CELL}}"


def _number(r: float) -> str:
    return f"{r:.2f}" if round(r, 2) == r else f"{r:.4g}"


def _name(name: str, column: int) -> str:
    """The name in its column; a long one loses its middle, and stands whole in the footer."""
    if len(name) >= column:
        name = name[: column // 2] + ".." + name[-(column - column // 2 - 3) :]
    return f"{name:<{column}}"


def _footer(summaries: Sequence[Summary]) -> list[str]:
    rule = "at or above" if summaries[0].at_least else "strictly above"
    lines = [f"certified accuracy in %: correct, radius {rule} r; ACR: mean radius"]
    lines += ["*: best of the column"] if any(leaders(summaries)) else []
    for s in summaries:
        halves = [max(abs(s.accuracy(r) - end) for end in s.interval(r)) for r in s.certified]
        points = f"; 95 % within {100 * max(halves):.1f} points" if halves else ""
        lines.append(f"{s.name}:")
        draws = f", {s.draws:,.0f} votes per image" if s.draws else ""
        lines.append(f"  {s.images} images, {s.abstained} abstained{draws}{points}")
        lines += [] if s.labelled else [f"  {UNLABELLED}"]
    return lines
