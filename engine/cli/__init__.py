"""The command line: `dualsmooth`."""

import gc

from dualsmooth.engine.cli.interrupt import end_at_once


def main() -> None:
    """Run the command, as `dualsmooth.engine.cli.app.main` does; its imports take a second."""
    end_at_once()
    gc.set_threshold(100_000)  # imports make objects to stay: looking through them takes .4 s
    from dualsmooth.engine.cli.app import main as run

    try:
        run()
    finally:
        end_at_once()
        gc.freeze()  # Python looks through all objects once more at its end, which takes .3 s


__all__ = ["main"]
