"""``summary.md``: the figures of a report as Markdown."""

import re
from collections.abc import Sequence

from dualsmooth.engine.printable import printable
from dualsmooth.engine.report.compare import against_best_fixed, cells, compare, leaders
from dualsmooth.engine.report.drawing import Plot
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import Summary


def markdown(runs: Sequence[Run], summaries: Sequence[Summary], plots: Sequence[Plot]) -> str:
    """Certified accuracies with intervals, conditions, a comparison, and the plots by name."""
    sections = ["# Certification report", _table(summaries), _about(runs, summaries)]
    if len(runs) > 1:
        sections += [_gaps(runs, summaries), _comparison(runs, summaries)]
    sections += [
        f"## {plot.title}\n\n![{plot.title}]({plot.name}.png)\n\n{_plain(plot.said)}"
        for plot in plots
    ]
    if warnings := [text for run in runs for text in run.warnings]:
        sections.append("## Warnings\n\n" + "\n".join(f"* {_plain(text)}" for text in warnings))
    return "\n\n".join(filter(None, sections)) + "\n"


def table(head: Sequence[object], *rows: Sequence[object]) -> str:
    """Lines of a table, the last one without its end."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (head, *rows)]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines)


def head_of(summary: Summary) -> list[str]:
    """What stands above `cells` and the name before them."""
    sign = "≥" if summary.at_least else ">"
    radii = (f"{r:g}" for r in summary.certified)
    return [f"certified accuracy in % at radius {sign}", *radii, "ACR"]


def _table(summaries: Sequence[Summary]) -> str:
    rows = []
    for s, best in zip(summaries, leaders(summaries), strict=True):
        row = {c: f"**{text}**" if c in best else text for c, text in cells(s).items()}
        row |= {r: f"{row[r]} ({_ends(s.interval(r))})" for r in s.certified}
        rows.append([_plain(s.name), *row.values()])
    return table(head_of(summaries[0]), *rows)


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else: no link, no element, no column."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)


def _ends(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _about(runs: Sequence[Run], summaries: Sequence[Summary]) -> str:
    rule = "at or above" if summaries[0].at_least else "strictly above"
    lines = [
        f"Certified accuracy: share of images certified correctly with a radius {rule} r; "
        "abstentions count against. In parentheses: 95 % Clopper-Pearson intervals, each radius by "
        "itself. ACR, the mean certified radius, grows with easy images alone: read it beside the "
        "columns, never instead of them.",
        "",
    ]
    for run, s in zip(runs, summaries, strict=True):
        draws = f", {s.draws:,.0f} votes per image" if s.draws else ""
        name, place = _plain(s.name), _plain(printable(run.path.name))
        counts = f"{s.images:,} images, {s.abstained:,} abstained{draws}"
        lines.append(f"* **{name}** ({place}): {counts}; {_plain(run.conditions)}.")
    return "\n".join(lines)


def _gaps(runs: Sequence[Run], summaries: Sequence[Summary]) -> str:
    lines = [f"* **{_plain(gap.name)}**: {gap}." for gap in against_best_fixed(summaries, runs)]
    head = "Against the best fixed sigma of these runs, chosen afresh at each radius:\n\n"
    return head + "\n".join(lines) if lines else ""


def _comparison(runs: Sequence[Run], summaries: Sequence[Summary]) -> str:
    lines = ["## Image by image", ""]
    radii = list(summaries[0].certified)
    for other in runs[1:]:
        first, second = _plain(runs[0].name), _plain(other.name)
        pairs = compare(runs[0], other, radii, at_least=summaries[0].at_least)
        if not pairs:
            lines.append(f"{first} and {second} have no image in common.\n")
            continue
        images = pairs[0].images
        lines += [f"{first} (first) and {second} (second), {images:,} images in common:", ""]
        rows = [
            (f"{p.radius:g}", p.both, p.only_first, p.only_second, p.neither)
            for p in pairs
            if p.neither < images
        ]
        lines += [table(("radius", "both", "only first", "only second", "neither"), *rows), ""]
    return "\n".join(lines).rstrip()
