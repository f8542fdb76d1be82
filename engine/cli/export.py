"""``dualsmooth export``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualsmooth.engine.cli.help import belong, whole_number
from dualsmooth.engine.cli.images import ImageOptions, with_image_options
from dualsmooth.engine.cli.options import with_method_options
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.printable import printable

CHECK_FAILED = 1


@with_method_options("fixed", "dual", without=("runner_up",))
@with_image_options("mean", "std")
def export(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="As for `dualsmooth certify`.")],
    out: Annotated[Path, typer.Option(help="Deployment folder to write; must not exist yet.")],
    n0: Annotated[
        int, typer.Option(parser=whole_number, help="Votes that choose, by default.")
    ] = 100,
    n: Annotated[
        int, typer.Option(parser=whole_number, help="Votes that enter the bounds, by default.")
    ] = 10_000,
    alpha: Annotated[
        float, typer.Option(help="Failure probability per image, by default.")
    ] = 0.001,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Rows of every pass; part of what is certified. Default: by image size."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the networks: base classifiers of their own.")
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(help="Images of --int8, as for certify. Default: digits:train, if they fit."),
    ] = None,
    calibration_images: Annotated[
        int | None,
        typer.Option(help="How many of them [128]; each is used with the noise of every level."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare noise, votes and certificates with the engine's."),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Images of --check, as for certify. Default: digits, if they fit."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images --check certifies [100].")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Noise seed of --check [0].")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Rows in work at once in --check. Default: one per core.")
    ] = None,
    **options: Any,
) -> None:
    """Write ONNX models that certify without PyTorch, with the same noise.

    The folder has every network (NAME.onnx), its vote graph with the noise inside
    (NAME.votes.onnx), the dual predictor (dual.onnx) and deployment.json. Load it with
    dualsmooth.export.certifier.OnnxCertifier, or run the graphs from any language. With --int8
    the networks are in int8, and certificates are about these. BUNDLE is anything but a file that
    was exported before.

    Exit code 1: the folder was written and --check failed.

    Examples:

    dualsmooth export digits-dual --out deployed --check

    dualsmooth export model.pth.tar --out deployed --sigma 0.25 --check --data npz:images.npz
    """
    from dualsmooth.engine.errors import ArgumentError
    from dualsmooth.engine.methods.registry import choose_method
    from dualsmooth.engine.models.operating_point import at_point
    from dualsmooth.engine.quantize.calibration import Calibration
    from dualsmooth.export.check.images import images_for_check
    from dualsmooth.export.deployment import Terms

    try:
        from dualsmooth.export.write import check_exportable, export_bundle
    except ImportError as error:
        hint = install_command("export")
        raise ArgumentError("export", "needs ONNX", f"no {error.name}", hint) from error

    if not check:
        belong("--check", data=data, images=images, seed=seed, threads=threads)
    if not int8:
        belong("--int8", calibration=calibration, calibration_images=calibration_images)
    check_exportable(bundle)
    loaded = ImageOptions.take(options).load(bundle, trust=False)
    kind = choose_method(loaded, **options).name.partition("(")[0]
    if (prefer := options.pop("prefer")) is not None:
        loaded = at_point(loaded, prefer)
    terms = Terms(**options | {"method": kind, "n0": n0, "n": n, "alpha": alpha})
    shape = loaded.input_shape
    pixels = images_for_check(data, shape, 100 if images is None else images) if check else None
    quantization = None
    if int8:
        names = ("calibration", "calibration_images")
        count = 128 if calibration_images is None else calibration_images
        quantization = Calibration.read(calibration, shape, count, names)
    deployment = export_bundle(loaded, out, terms, batch_size=batch_size, int8=quantization)
    typer.echo(f"{printable(out)}/deployment.json")
    if pixels is None:
        return
    from dualsmooth.export.check.deployment import check_deployment
    from dualsmooth.export.check.finding import table

    findings = check_deployment(deployment, loaded, pixels, seed=seed or 0, threads=threads)
    typer.echo(table(findings))
    if not all(finding.passed for finding in findings):
        raise typer.Exit(CHECK_FAILED)
