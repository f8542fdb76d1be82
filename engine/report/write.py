"""Write a report: everything is made in memory first, so that bad input leaves no half of it."""

from collections.abc import Sequence
from pathlib import Path

from dualsmooth.engine.files import write_files
from dualsmooth.engine.report.drawing import pictures, require_matplotlib
from dualsmooth.engine.report.markdown import markdown
from dualsmooth.engine.report.plots import plots
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import Summary
from dualsmooth.engine.terminal.progress import step


@step("drawing the plots")
def write_report(
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    folder: Path,
    *,
    html: bool = False,
    data: str | None = None,
) -> list[str]:
    """Write ``summary.md``, plots as PNG and SVG (curves as PDF too), and ``report.html`` if asked,
    with thumbnails of the images that ``data`` names.

    Returns the names of the files.
    """
    require_matplotlib()
    drawn = plots(runs, at_least=summaries[0].at_least)
    files = {"summary.md": markdown(runs, summaries, drawn).encode()}
    for plot in drawn:
        kinds = ("png", "pdf", "svg") if plot.name == "curves" else ("png", "svg")
        for kind, content in pictures(plot, kinds).items():
            files[f"{plot.name}.{kind}"] = content
    if html:
        from dualsmooth.engine.report.page import page

        files["report.html"] = page(runs, summaries, drawn, data).encode()
    write_files(folder, files)
    return list(files)
