"""The command line: `dualsmooth`."""

from dualsmooth.engine.cli.app import main

__all__ = ["main"]
