"""The command line: `dualsmooth`."""

import atexit
import gc
import os
import sys
from contextlib import suppress

from dualsmooth.engine.cli.interrupt import end_at_once


def main() -> None:
    """Run the command, as `dualsmooth.engine.cli.app.main` does; its imports take a second."""
    _open_streams()
    end_at_once()
    gc.set_threshold(500_000)  # imports make objects to stay: looking through them takes .4 s
    code: str | int | None = 0
    try:
        from dualsmooth.engine.cli.app import main as run

        run()
    except ModuleNotFoundError as error:  # installed for `OnnxCertifier`, without dependencies
        if str(error.name).startswith("dualsmooth"):
            raise
        from dualsmooth.engine.machine import install_command

        needs = f"needs {error.name}, which is not installed ({install_command()})"
        print(f"dualsmooth: {needs}", file=sys.stderr)
        code = 2
    except SystemExit as ended:
        code = ended.code
    finally:
        end_at_once()
    if _profiled() or not isinstance(code, int):
        sys.exit(code)
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # a reader has gone, and `run` has said so
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # taking all objects down takes .3 s


def _profiled() -> bool:
    """Whether somebody has yet to tell what took how long."""
    if sys.version_info < (3, 12):
        return sys.getprofile() is not None
    return sys.monitoring.get_tool(sys.monitoring.PROFILER_ID) is not None


def _open_streams() -> None:
    """Closed streams lead nowhere; else the next files got their numbers, and what is said."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")


__all__ = ["main"]
