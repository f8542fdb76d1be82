"""`python -m dualsmooth`."""

from dualsmooth.engine.cli import main

main()
