"""The ``dualsmooth`` command."""

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dualsmooth.engine.cli_audit import audit
from dualsmooth.engine.cli_certify import certify
from dualsmooth.engine.cli_parquet import parquet
from dualsmooth.engine.cli_predict import predict
from dualsmooth.engine.cli_report import report
from dualsmooth.engine.cli_search import search
from dualsmooth.engine.cli_train import train
from dualsmooth.engine.errors import DualSmoothError, StoppedError
from dualsmooth.export.command import export

INTERRUPTED = 130

app = typer.Typer(
    name="dualsmooth",
    help="Certify classifiers by randomized smoothing with input-dependent noise.",
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (certify, predict, report, audit, train, search, export, parquet):
    app.command()(command)


@app.command()
def bench(
    suite: Annotated[str, typer.Argument(help="cpu: votes per second against every peer.")] = "cpu",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 15,
    networks: Annotated[
        str | None,
        typer.Option(
            help="Of small, lenet, resnet20, resnet110 (these four if left out), "
            "resnet18, resnet50."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("benchmarks/results"),
) -> None:
    """Time this machine against other ways to draw the same votes."""
    from dualsmooth.benchmarks import cpu
    from dualsmooth.engine.errors import ArgumentError

    if suite != "cpu":
        raise ArgumentError("suite", "must be cpu", suite)
    cpu.run(rounds, tuple(networks.split(",")) if networks else cpu.DEFAULT, out, threads)


@app.command()
def doctor() -> None:
    """Print versions, devices and measured speed, ready to paste into a bug report."""
    from dualsmooth.engine.doctor import examine

    for line in examine():
        typer.echo(line)


def main() -> None:
    """Run the command; errors are one line on stderr.

    Exit codes: 0 done, 1 an audit or the check of an export found something, 2 bad usage or input,
    3 stopped before the end (resumable), 130 interrupted (resumable).
    """
    with suppress(ValueError):  # only the main thread may; SIGTERM then stops as Ctrl-C does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False) or 0
    except StoppedError as error:
        _fail(str(error), 3)
    except DualSmoothError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(f"{error.format_message()} (see dualsmooth --help)", 2)
    if code == INTERRUPTED:
        _fail("interrupted; what was reached is on disk, go on with --resume", code)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    typer.echo(f"dualsmooth: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
