"""The ``report`` command."""

import json
from pathlib import Path
from typing import Annotated

import typer

from dualsmooth.engine.printable import printable


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_TSV...", help="Run folders or tables in Cohen et al.'s format."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for summary.md and the plots; with --html and one run its own folder."
        ),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Also write report.html, one file that needs no network.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="With --html: images of the runs, for thumbnails. Default: digits."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    radii: Annotated[
        str | None, typer.Option(help="Radii to report, for example 0.5,1,1.5,2.")
    ] = None,
    at_least: Annotated[
        bool,
        typer.Option(
            "--at-least",
            help="Count radii equal to r too, as Cohen et al.'s analysis does: for comparing with "
            "published tables.",
        ),
    ] = False,
) -> None:
    """Compare certified accuracies of runs; write tables and plots."""
    from dualsmooth.engine.errors import ArgumentError
    from dualsmooth.engine.report.reading import default_radii, read_runs
    from dualsmooth.engine.report.text import text_table
    from dualsmooth.engine.runs.summary import summarize

    if data is not None and not html:
        raise ArgumentError("data", "goes with --html", data)
    read = read_runs(runs)
    grid = _radii(radii) if radii is not None else default_radii(read)
    folder = _folder(read[0].path, len(read), out, html)
    summaries = [summarize(run.name, run.rows, grid, at_least=at_least) for run in read]
    for warning in (text for run in read for text in run.warnings):
        typer.echo(f"dualsmooth: warning: {warning}", err=True)
    typer.echo(json.dumps([s.to_dict() for s in summaries], indent=1) if json_
               else text_table(summaries))  # fmt: skip
    if folder is not None:
        from dualsmooth.engine.report.write import write_report

        written = write_report(read, summaries, folder, html=html, data=data)
        typer.echo(f"\n{printable(folder)}/{', '.join(written)}", err=json_)


def _radii(text: str) -> tuple[float, ...]:
    from dualsmooth.engine.checks import non_negative
    from dualsmooth.engine.errors import ArgumentError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError("radii", "must be numbers with commas between them", text) from None
    return tuple(sorted({non_negative("radii", value) for value in values}))


def _folder(first: Path, count: int, out: Path | None, html: bool) -> Path | None:
    from dualsmooth.engine.errors import ArgumentError

    if out is None and html:
        if count > 1 or not first.is_dir():
            raise ArgumentError("out", "is required by --html with a table or several runs", None)
        return first
    return out


def parquet(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet file to write.")],
) -> None:
    """Write the certificates of a run as a Parquet file (extra parquet)."""
    from dualsmooth.engine.report.parquet import write_parquet

    typer.echo(f"{printable(file)}: {write_parquet(run, file)} certificates")
