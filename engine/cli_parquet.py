"""The command ``dualsmooth parquet``."""

from pathlib import Path
from typing import Annotated

import typer


def parquet(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet file to write.")],
) -> None:
    """Write the certificates of a run as a Parquet file (extra parquet)."""
    from dualsmooth.engine.report.parquet import write_parquet

    typer.echo(f"{file}: {write_parquet(run, file)} certificates")
