"""Certified accuracies for other programs: CSV, and LaTeX with booktabs."""

import csv
import io
from collections.abc import Sequence

from dualsmooth.engine.report.compare import cells, leaders
from dualsmooth.engine.runs.summary import Summary

_LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{character: "\\" + character for character in "&%$#_{}"},
}


def csv_table(summaries: Sequence[Summary]) -> str:
    """A line per run; shares in [0, 1], with the ends of their 95 % intervals."""
    radii = list(summaries[0].certified)
    names = [f"{kind}_{r:g}" for r in radii for kind in ("accuracy", "low", "high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "images", "abstained", "votes_per_image", "acr", *names])
    for s in summaries:
        shares = [value for r in radii for value in (s.accuracy(r), *s.interval(r))]
        # A name that a spreadsheet would take for a formula is text.
        name = "'" + s.name if s.name[:1] in "=+-@" else s.name
        writer.writerow(
            [name, s.images, s.abstained, f"{s.draws:g}", repr(s.acr), *map(repr, shares)]
        )
    return text.getvalue()


def latex_table(summaries: Sequence[Summary]) -> str:
    """A ``tabular`` of certified accuracies in % and ACR, the best of each column in bold."""
    radii = list(summaries[0].certified)
    sign = r"\ge" if summaries[0].at_least else ">"
    head = " & ".join([f"radius ${sign}$", *(f"{r:g}" for r in radii), "ACR"])
    lines = [r"\begin{tabular}{l" + "r" * (len(radii) + 1) + "}", r"\toprule", head + r" \\"]
    lines.append(r"\midrule")
    for s, best in zip(summaries, leaders(summaries), strict=True):
        marked = (rf"\textbf{{{t}}}" if c in best else t for c, t in cells(s).items())
        name = "".join(_LATEX.get(character, character) for character in s.name)
        lines.append(" & ".join([name, *marked]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
