"""Certified-accuracy tables for the terminal, at most 80 columns wide."""

from collections.abc import Sequence

from dualsmooth.engine.report.summary import Summary

NAME_WIDTH = 24


def text_table(summaries: Sequence[Summary]) -> str:
    """One row per run: certified accuracy (%) at each radius and ACR.

    With fixed and dual runs side by side, further rows say how far each dual run is above (+) or
    below (-) the best fixed sigma, chosen afresh at every radius.
    """
    radii = list(summaries[0].certified)
    head = f"{'radius >':<{NAME_WIDTH}}" + "".join(f"{_number(r):>7}" for r in radii)
    lines = [head + f"{'ACR':>7}", "-" * (len(head) + 7)]
    for summary in summaries:
        cells = "".join(f"{100 * summary.accuracy(r):>7.1f}" for r in radii)
        lines.append(f"{summary.name:<{NAME_WIDTH}}" + cells + f"{summary.acr:>7.3f}")
    return "\n".join([*lines, *_against_best_fixed(summaries, radii), *_footer(summaries)])


def _number(r: float) -> str:
    return f"{r:.2f}" if round(r, 2) == r else f"{r:.4g}"


def _against_best_fixed(summaries: Sequence[Summary], radii: Sequence[float]) -> list[str]:
    fixed = [s for s in summaries if s.name.startswith("fixed")]
    dual = [s for s in summaries if s.name.startswith("dual")]
    if not fixed or not dual:
        return []
    lines = ["", "above (+) or below (-) the best fixed sigma at each radius, in points"]
    for summary in dual:
        gaps = [100 * (summary.accuracy(r) - max(f.accuracy(r) for f in fixed)) for r in radii]
        gap = summary.acr - max(f.acr for f in fixed)
        cells = "".join(f"{g:>+7.1f}" for g in gaps)
        lines.append(f"{summary.name:<{NAME_WIDTH}}" + cells + f"{gap:>+7.3f}")
    return lines


def _footer(summaries: Sequence[Summary]) -> list[str]:
    lines = ["", "certified accuracy in %: correct with a radius strictly above; ACR: mean radius"]
    for s in summaries:
        draws = f", {s.draws:,.0f} votes per image" if s.draws else ""
        lines.append(f"{s.name}: {s.images} images, {s.abstained} abstained{draws}")
    return lines
