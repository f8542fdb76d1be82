"""Certified-accuracy tables for the terminal, as wide as it is."""

from collections.abc import Sequence

from dualsmooth.engine.runs.summary import Summary

WIDTH, NAME_WIDTH, CELL = 80, 24, 7


def text_table(summaries: Sequence[Summary], width: int = WIDTH) -> str:
    """One row per run: certified accuracy (%) at each radius and ACR.

    With fixed and dual runs side by side, further rows say how far each dual run is above (+) or
    below (-) the best fixed sigma, chosen afresh at every radius. More radii than fit in ``width``
    columns go into further tables below the first.
    """
    radii = list(summaries[0].certified)
    most = max(NAME_WIDTH, width - (len(radii) + 1) * CELL)
    column = min(most, max(NAME_WIDTH, *(len(s.name) + 1 for s in summaries)))
    per_table = max(1, (width - column) // CELL - 1)
    parts = [radii[i : i + per_table] for i in range(0, max(1, len(radii)), per_table)]
    lines = [line for part in parts for line in _table(summaries, part, column)]
    return "\n".join([*lines, *_footer(summaries)])


def _table(summaries: Sequence[Summary], radii: Sequence[float], column: int) -> list[str]:
    sign = ">=" if summaries[0].at_least else ">"
    head = f"{f'radius {sign}':<{column}}" + "".join(f"{_number(r):>{CELL}}" for r in radii)
    lines = [head + f"{'ACR':>{CELL}}", "-" * (len(head) + CELL)]
    for summary in summaries:
        cells = "".join(f"{100 * summary.accuracy(r):>{CELL}.1f}" for r in radii)
        lines.append(_name(summary, column) + cells + f"{summary.acr:>{CELL}.3f}")
    return [*lines, *_against_best_fixed(summaries, radii, column), ""]


def _number(r: float) -> str:
    return f"{r:.2f}" if round(r, 2) == r else f"{r:.4g}"


def _name(summary: Summary, column: int) -> str:
    """The name in its column; a long one loses its middle, and stands whole in the footer."""
    name = summary.name
    if len(name) >= column:
        name = name[: column // 2] + ".." + name[-(column - column // 2 - 3) :]
    return f"{name:<{column}}"


def _against_best_fixed(
    summaries: Sequence[Summary], radii: Sequence[float], column: int
) -> list[str]:
    fixed = [s for s in summaries if s.name.startswith("fixed")]
    dual = [s for s in summaries if s.name.startswith("dual")]
    if not fixed or not dual:
        return []
    lines = ["", "above (+) or below (-) the best fixed sigma at each radius, in points"]
    for summary in dual:
        gaps = [100 * (summary.accuracy(r) - max(f.accuracy(r) for f in fixed)) for r in radii]
        gap = summary.acr - max(f.acr for f in fixed)
        cells = "".join(f"{g:>+{CELL}.1f}" for g in gaps)
        lines.append(_name(summary, column) + cells + f"{gap:>+{CELL}.3f}")
    return lines


def _footer(summaries: Sequence[Summary]) -> list[str]:
    rule = "at or above" if summaries[0].at_least else "strictly above"
    lines = [f"certified accuracy in %: correct, radius {rule} r; ACR: mean radius"]
    for s in summaries:
        halves = [max(abs(s.accuracy(r) - end) for end in s.interval(r)) for r in s.certified]
        points = f"; 95 % within {100 * max(halves):.1f} points" if halves else ""
        lines.append(f"{s.name}:")
        draws = f", {s.draws:,.0f} votes per image" if s.draws else ""
        lines.append(f"  {s.images} images, {s.abstained} abstained{draws}{points}")
    return lines
