"""The ``report`` command."""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualsmooth.engine.checks import non_negative
from dualsmooth.engine.cli.help import belong, numbers_in
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import at_home, check_own
from dualsmooth.engine.printable import printable
from dualsmooth.engine.runs.run_checks import RUN

if TYPE_CHECKING:
    from dualsmooth.engine.report.reading import Run
    from dualsmooth.engine.runs.summary import Summary


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN_OR_TSV...",
            help="Run folders, folders of runs, or tables in Cohen et al.'s format.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN", help="A run by another name; may be given several times."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Published results beside the runs: cohen2019 or acr2025, those on the data of "
            "the runs; or cohen2019-imagenet, acr2025-cifar10-consistency-0.5 and the like.",
        ),
    ] = None,
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
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, shares with intervals.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX (booktabs).")] = False,
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
    from dualsmooth.engine.data.spec import parse_spec
    from dualsmooth.engine.report.published import published
    from dualsmooth.engine.report.reading import default_radii, read_runs
    from dualsmooth.engine.runs.summary import summarize

    if not html:
        belong("--html", data=data)
    elif data is not None:
        parse_spec(data)
    if json_ + csv + latex > 1:
        raise ArgumentError("json", "must be the only one of --json, --csv and --latex", True)
    labels = dict(map(_labelled, label or ()))
    if not runs and not labels:
        raise ArgumentError("runs", "must be at least one run folder or table", None)
    read = read_runs(runs or (), labels)
    grid = default_radii(read)
    if radii is not None:
        grid = tuple(sorted({non_negative("radii", r) for r in numbers_in("radii", radii)}))
    folder = _folder(read[0].path, len(read), out, html)
    read += {r.name: r for name in against or () for r in published(name, read)}.values()
    summaries = [summarize(run.name, run.rows, grid, at_least=at_least) for run in read]
    for warning in (text for run in read for text in run.warnings):
        typer.echo(f"dualsmooth: warning: {warning}", err=True)
    kind = "json" if json_ else "csv" if csv else "latex" if latex else "text"
    typer.echo(_table(read, summaries, kind))
    if folder is not None:
        from dualsmooth.engine.report.write import write_report

        written = write_report(read, summaries, folder, html=html, data=data)
        typer.echo(f"\n{printable(folder)}/{', '.join(written)}", err=kind != "text")


def _table(runs: "list[Run]", summaries: "list[Summary]", kind: str) -> str:
    from dualsmooth.engine.report.compare import against_best_fixed
    from dualsmooth.engine.report.tables import csv_table, latex_table
    from dualsmooth.engine.report.text import text_table

    if kind == "json":
        return json.dumps([s.to_dict() for s in summaries], indent=1)
    if kind == "text":
        return text_table(summaries, terminal_width(), against_best_fixed(summaries, runs))
    return (csv_table if kind == "csv" else latex_table)(summaries).rstrip("\n")


def terminal_width() -> int:
    """Columns of the terminal; 80 where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def _labelled(text: str) -> tuple[Path, str]:
    name, equals, path = text.partition("=")
    if not (name.strip() and equals and path):
        raise ArgumentError("label", "must be NAME=RUN", text)
    return at_home(path), name.strip()


def _folder(first: Path, count: int, out: Path | None, html: bool) -> Path | None:
    if out is None and html:
        if count > 1 or not first.is_dir():
            raise ArgumentError("out", "is required by --html with a table or several runs", None)
        return first
    if out is not None:
        check_own(out, RUN, f"*/{RUN}", "summary.md*")
    return out


def parquet(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet file to write.")],
) -> None:
    """Write the certificates of a run as a Parquet file (extra parquet)."""
    from dualsmooth.engine.report.parquet import write_parquet

    typer.echo(f"{printable(file)}: {write_parquet(run, file)} certificates")
