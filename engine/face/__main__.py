"""`python -m dualsmooth`."""

from dualsmooth.engine.cli.app import main

main()
