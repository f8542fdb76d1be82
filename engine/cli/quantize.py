"""``dualsmooth quantize``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualsmooth.engine.cli.help import whole_number
from dualsmooth.engine.cli.images import ImageOptions, with_image_options
from dualsmooth.engine.cli.options import TrustOption
from dualsmooth.engine.printable import printable
from dualsmooth.engine.terminal.progress import step


@with_image_options("mean", "std")
def quantize(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="As for `dualsmooth certify`.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write; must not exist yet.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Images to calibrate on, as for certify: not those you will certify. "
            "Default: digits:train, if they fit."
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            parser=whole_number,
            help="How many of them, at even steps; each with the noise of every level.",
        ),
    ] = 128,
    sigma: Annotated[
        float | None, typer.Option(help="Noise level, for a BUNDLE without levels of its own.")
    ] = None,
    trust_model: TrustOption = False,
    **options: Any,
) -> None:
    """Write a bundle whose networks are networks of 8-bit integers.

    They vote about twice as fast on processors with AVX512-VNNI (see `dualsmooth doctor`) and are
    base classifiers of their own: certificates are about them, not about the float32 networks.
    Batch norm is folded, ranges are found on noisy images, and sums of integers are exact on every
    device; the layer that gives the logits stays in float32. Certify OUT as any bundle.

    Examples:

    dualsmooth quantize digits-dual --out digits-int8

    dualsmooth quantize model.pth.tar --data cifar10:DIR:train --sigma 0.25 --out model-int8
    """
    with step("loading PyTorch"):
        from dualsmooth.engine.quantize.bundle import write_quantized
    from dualsmooth.engine.quantize.calibration import Calibration

    loaded = ImageOptions.take(options).load(bundle, trust=trust_model)
    chosen = Calibration.read(data, loaded.input_shape, images)
    write_quantized(loaded, chosen, out, sigma=sigma)
    typer.echo(f"{printable(out)}/bundle.json")
