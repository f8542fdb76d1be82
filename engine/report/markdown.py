"""``summary.md``: the figures of a report as Markdown."""

from collections.abc import Sequence

from dualsmooth.engine.report.compare import compare
from dualsmooth.engine.report.drawing import Plot
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import Summary


def markdown(runs: Sequence[Run], summaries: Sequence[Summary], plots: Sequence[Plot]) -> str:
    """Certified accuracies with intervals, conditions, a comparison, and the plots by name."""
    sections = ["# Certification report", _table(summaries), _about(runs, summaries)]
    if len(runs) > 1:
        sections.append(_comparison(runs, summaries))
    sections += [
        f"## {plot.title}\n\n![{plot.title}]({plot.name}.png)\n\n{plot.caption}" for plot in plots
    ]
    if warnings := [text for run in runs for text in run.warnings]:
        sections.append("## Warnings\n\n" + "\n".join(f"* {text}" for text in warnings))
    return "\n\n".join(sections) + "\n"


def _table(summaries: Sequence[Summary]) -> str:
    radii, sign = list(summaries[0].certified), "≥" if summaries[0].at_least else ">"
    head = [f"certified accuracy in % at radius {sign}", *(f"{r:g}" for r in radii), "ACR"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for s in summaries:
        cells = [f"{100 * s.accuracy(r):.1f} ({_ends(s.interval(r))})" for r in radii]
        lines.append("| " + " | ".join([s.name, *cells, f"{s.acr:.3f}"]) + " |")
    return "\n".join(lines)


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
        counts = f"{s.images:,} images, {s.abstained:,} abstained{draws}"
        lines.append(f"* **{s.name}** ({run.path.name}): {counts}; {run.conditions}.")
    return "\n".join(lines)


def _comparison(runs: Sequence[Run], summaries: Sequence[Summary]) -> str:
    lines = ["## Image by image", ""]
    radii = list(summaries[0].certified)
    for other in runs[1:]:
        pairs = compare(runs[0], other, radii, at_least=summaries[0].at_least)
        if not pairs:
            lines.append(f"{runs[0].name} and {other.name} have no image in common.\n")
            continue
        images = pairs[0].images
        names = f"{runs[0].name} (first) and {other.name} (second)"
        lines += [f"{names}, {images:,} images in common:", ""]
        lines += ["| radius | both | only first | only second | neither |", "|---" * 5 + "|"]
        for p in pairs:
            if p.neither < images:
                cells = (f"{p.radius:g}", p.both, p.only_first, p.only_second, p.neither)
                lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()
