"""Options of ``dualsmooth certify`` that spread a run over workers."""

from typing import Annotated

import typer

WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes that draw votes, one per CUDA device or group of cores."),
]
RayOption = Annotated[
    str | None,
    typer.Option(help="Draw votes on Ray: local, or a cluster's address (extra cluster)."),
]
