"""The command line: `dualsmooth`."""

import gc
import os
import sys

from dualsmooth.engine.cli.interrupt import end_at_once


def main() -> None:
    """Run the command, as `dualsmooth.engine.cli.app.main` does; its imports take a second."""
    _open_streams()
    end_at_once()
    gc.set_threshold(100_000)  # imports make objects to stay: looking through them takes .4 s
    from dualsmooth.engine.cli.app import main as run

    try:
        run()
    finally:
        end_at_once()
        if "triton" not in sys.modules:  # which reports what is left at the end as leaks
            gc.freeze()  # Python looks through all objects once more there, which takes .3 s


def _open_streams() -> None:
    """Closed streams lead nowhere; else the next files got their numbers, and what is said."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")


__all__ = ["main"]
