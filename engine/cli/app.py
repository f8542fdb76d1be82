"""The ``dualsmooth`` command."""

import errno
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dualsmooth.engine.cli.audit import audit
from dualsmooth.engine.cli.certify import certify
from dualsmooth.engine.cli.export import export
from dualsmooth.engine.cli.frontier import frontier
from dualsmooth.engine.cli.help import Command, Group, belong, meant
from dualsmooth.engine.cli.interrupt import INTERRUPTED, interruptible, said, stopped, watch
from dualsmooth.engine.cli.predict import predict
from dualsmooth.engine.cli.quantize import quantize
from dualsmooth.engine.cli.report import parquet, report
from dualsmooth.engine.cli.search import search
from dualsmooth.engine.cli.train import train
from dualsmooth.engine.errors import DualSmoothError, StoppedError
from dualsmooth.engine.printable import printable
from dualsmooth.engine.terminal.progress import shown

_OF_NAMES = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR)
"""Errors that a name on the command line leads to before anything is reached."""

app = typer.Typer(
    name="dualsmooth",
    cls=Group,
    help="Certify classifiers by randomized smoothing with input-dependent noise.",
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    from dualsmooth.engine.machine import installed_version

    if asked:
        typer.echo(f"dualsmooth {installed_version('dualsmooth')}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of the command itself."""


COMMANDS = certify, predict, report, audit, train, quantize, search, export, frontier, parquet
for command in COMMANDS:
    app.command(cls=Command)(command)


@app.command(cls=Command)
def bench(
    suite: Annotated[
        str,
        typer.Argument(
            help="cpu (votes per second against every peer), dual (dual against fixed), occupancy "
            "(how full batches are), scaling (cost against n, images, levels, classes and size) or "
            "start (time to the first certificate)."
        ),
    ] = "cpu",
    rounds: Annotated[
        int | None,
        typer.Option(help="Rounds. Default: cpu 15, dual 7, scaling 6, start 5."),
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option(
            help="cpu: some of small, lenet, resnet20, resnet110 (these four if left out), "
            "resnet18, resnet50."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="cpu: one per core if left out.")] = None,
    bundle: Annotated[
        str | None, typer.Option(help="dual: a model with a selector; digits-dual if left out.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="dual: images of that model; digits if left out.")
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(help="dual: an operating point of its selector, as for certify.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("benchmarks/results"),
) -> None:
    """Time this machine: against other ways to draw the same votes, and by what is certified.

    A suite takes minutes, in proportion to its rounds; a bar, or a line every 30 seconds, says how
    many are left. Begin with a few rounds of a small network.

    Examples:

    dualsmooth bench cpu --networks small --rounds 3 --out bench

    dualsmooth bench start --rounds 1 --out bench
    """
    from dualsmooth.benchmarks.speed.suites import run_suite

    of_cpu = {"networks": networks, "threads": threads}
    of_dual = {"bundle": bundle, "data": data, "prefer": prefer}
    if suite != "cpu":
        belong("bench cpu", **of_cpu)
    if suite == "occupancy":
        belong("suites that measure time", rounds=rounds)
    if suite != "dual":
        belong("bench dual", **of_dual)
    given: dict[str, Any] = of_cpu | of_dual
    run_suite(suite, rounds, out, **{k: v for k, v in given.items() if v is not None})


@app.command(cls=Command)
def doctor() -> None:
    """Print versions, devices and measured speed, ready to paste into a bug report."""
    from dualsmooth.engine.cli.doctor import examine

    for line in examine():
        typer.echo(line)


def main() -> None:
    """Run the command; errors are one line on stderr.

    Exit codes: 0 done, 1 an audit or the check of an export found something, 2 bad usage or input,
    3 stopped before the end (resumable), 4 an audit found nothing, but took part of the run on
    trust, 130 interrupted (resumable).
    """
    with suppress(ValueError):  # only the main thread may; SIGTERM then stops as Ctrl-C does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with watch(), warnings_on_a_line():
        _run()


@contextmanager
def warnings_on_a_line() -> Iterator[None]:
    """Warnings without the file and the line of ours that they would be printed with."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"dualsmooth: warning: {printable(message)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _run() -> NoReturn:
    try:
        with interruptible(), shown(True):
            code = app(prog_name="dualsmooth", standalone_mode=False) or 0
            sys.stdout.flush()
    except StoppedError as error:
        _fail(stopped(str(error), reached=""), 3)
    except DualSmoothError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except RecursionError:
        _fail("an argument or file is nested too deeply", 2)
    except MemoryError:
        _fail(stopped("out of memory"), 3)
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 3
    except OSError as error:
        if error.errno in _OF_NAMES:
            _fail(f"{error.filename}: must be readable; received {error.strerror}", 2)
        where = f"{error.filename}: " if error.filename else ""
        _fail(stopped(where + (error.strerror or str(error))), 3)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        path = "dualsmooth" if context is None else context.command_path
        if not (said_of := meant(error)):  # nothing was asked, and the help has been printed
            sys.exit(2)
        _fail(f"{said_of} (see {path} --help)", 2)
    if code == INTERRUPTED:
        _fail(stopped("interrupted"), code)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"dualsmooth: {printable(message)}", err=True)
    said()
    sys.exit(code)
