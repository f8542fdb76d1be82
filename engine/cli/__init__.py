"""The command line: `dualsmooth`."""

from dualsmooth.engine.cli.interrupt import end_at_once


def main() -> None:
    """Run the command, as `dualsmooth.engine.cli.app.main` does; its imports take a second."""
    end_at_once()
    from dualsmooth.engine.cli.app import main as run

    try:
        run()
    finally:
        end_at_once()


__all__ = ["main"]
