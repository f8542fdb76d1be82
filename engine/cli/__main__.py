"""`python -m dualsmooth.engine.cli`."""

from dualsmooth.engine.cli.app import main

main()
