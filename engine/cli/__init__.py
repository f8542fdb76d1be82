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
    code: object = 0
    try:
        from dualsmooth.engine.cli.app import main as run

        run()
    except ModuleNotFoundError as error:  # installed for `OnnxCertifier`, without dependencies
        if str(error.name).startswith("dualsmooth"):
            raise
        hint = "python -m pip install dualsmooth, without --no-deps"
        print(f"dualsmooth: needs {error.name}, which is not installed ({hint})", file=sys.stderr)
        code = 2
    except SystemExit as ended:
        code = ended.code
    finally:
        end_at_once()
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # a reader has gone, and `run` has said so
        sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 0)  # taking all objects down takes .3 s


def _open_streams() -> None:
    """Closed streams lead nowhere; else the next files got their numbers, and what is said."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")


__all__ = ["main"]
