"""The command ``dualsmooth audit``."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualsmooth.engine.backends import AUTO
from dualsmooth.engine.cli.help import belong
from dualsmooth.engine.cli.images import ImageOptions, with_image_options
from dualsmooth.engine.cli.options import ClassesOption, TrustOption
from dualsmooth.engine.data.image_set import IN_MEMORY
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.printable import printable

if TYPE_CHECKING:
    from dualsmooth.engine.models.bundle import Bundle
    from dualsmooth.engine.runs.audit import Audit

FINDINGS_SHOWN = 20
ON_TRUST = 4
RESTS_ON = {
    "anchors": ("insta", "anchor"),
    "references": ("semielastic", None),
    "memory": ("insta", "memory"),
}
"""Method and region of the runs that each file is about."""


@with_image_options("mean", "std")
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    replay: Annotated[
        float | None,
        typer.Option(
            metavar="[SHARE]",
            help="Draw the votes of this share of the images again; 0.02 without a number.",
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="The run's bundle, as certify takes it. Default: the bundled one."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The run's images, as certify takes them. Default: digits.")
    ] = None,
    classes: ClassesOption = None,
    from_run: Annotated[
        bool,
        typer.Option(
            "--from-run",
            help="Open the bundle and the images that the run names, where the two options above "
            "are left out: for runs that you made or whose maker you trust.",
        ),
    ] = False,
    anchors: Annotated[
        Path | None, typer.Option(help="insta, anchor: the file that certify was given.")
    ] = None,
    references: Annotated[
        str | None, typer.Option(help="semielastic: the references, as certify takes them.")
    ] = None,
    memory: Annotated[
        Path | None, typer.Option(help="insta, memory: the file, if it held balls at the start.")
    ] = None,
    choice: Annotated[
        int | None,
        typer.Option(help="Seed of --replay's random choice. Default: a fresh one, printed."),
    ] = None,
    trust_model: TrustOption = False,
    compare: Annotated[
        str | None,
        typer.Option(help="How --replay compares votes: auto (default), exact or statistical."),
    ] = None,
    **options: Any,
) -> None:
    """Check a run without trusting it: every line, radius, table and digest.

    Nothing that a run names is opened but what comes with the package: give --data, --bundle and
    what the noise level of an image rests on, or --from-run.

    Exit codes: 0 nothing found, 1 something found, 2 bad usage, 4 nothing found, but part of the
    run was taken on trust; it is named. Votes are on trust until --replay draws them again.

    Examples:

    dualsmooth audit runs/digits

    dualsmooth audit runs/digits --replay

    dualsmooth audit runs/mine --from-run --replay 0.1
    """
    from dualsmooth.engine.methods.options import Given
    from dualsmooth.engine.methods.regions.anchors import read_anchors
    from dualsmooth.engine.runs.audit import audit as examine
    from dualsmooth.engine.runs.audit import check_bundle, check_classes

    if replay is None:
        belong("--replay", choice=choice, compare=compare)
    about = ImageOptions.take(options)
    if bundle is None:
        belong("--bundle", mean=about.mean, std=about.std)
        if not from_run:
            belong("--bundle or --from-run", trust_model=trust_model or None)
    images = _images(run, data, classes, from_run)
    if images is None:
        belong("--data or --from-run", classes=classes)
    given = Given(
        anchors=None if anchors is None else read_anchors(anchors),
        references=_references(references),
        memory=memory,
    )
    seen = examine(run, images, given)
    _check_given(seen, anchors=anchors, references=references, memory=memory)
    networks = _bundle(seen, bundle, from_run, about, trust_model)
    if networks is not None and seen.plan is not None:
        check_bundle(seen, networks.digest, bundle or networks.name)
    if images is not None and classes is None:
        check_classes(seen, images, networks.classes if networks else ())
    if replay is not None and not seen.findings and seen.plan is not None:
        from dualsmooth.engine.runs.replay import Choice
        from dualsmooth.engine.runs.replay import replay as draw_again

        if networks is None or images is None:
            raise _missing(seen, "data" if networks else "bundle")
        seed = secrets.randbits(32) if choice is None else choice
        draw_again(seen, seen.plan, networks, images, Choice(replay, seed, compare or AUTO))
    _print(seen)
    raise typer.Exit(1 if seen.findings else ON_TRUST if seen.trusted else 0)


def _references(spec: str | None) -> Any:
    from dualsmooth.engine.data.spec import load_images
    from dualsmooth.engine.errors import about_images_of

    with about_images_of("references"):
        return None if spec is None else load_images(spec).images


def _check_given(seen: "Audit", **given: object) -> None:
    """Refuse files that the noise level of this run does not rest on."""
    options = seen.configuration["options"] if seen.plan else {}
    for name, value in given.items() if seen.plan else ():
        if (options.get("method"), options.get("region")) != RESTS_ON[name]:
            belong(f"runs of {' with region '.join(filter(None, RESTS_ON[name]))}", **{name: value})


def _missing(seen: "Audit", what: str) -> ArgumentError:
    """The error that says what --replay needs, with the option that gives it."""
    known = seen.source.bundle if what == "bundle" and seen.source else seen.configuration[what]
    by_name = known != IN_MEMORY and (seen.source or what == "data")
    hint = f"--{what} {known}, or --from-run, which opens what the run names"
    hint = hint if by_name else f"it came from memory: --{what} must name the same"
    return ArgumentError(what, "is required by --replay", None, hint)


def _images(run: Path, spec: str | None, classes: Path | None, from_run: bool) -> Any:
    """The images named by the user. What a run names itself is opened only if it is no file, or the
    user says so.
    """
    from dualsmooth.engine.data.class_names import read_classes
    from dualsmooth.engine.data.spec import images_of_run, parse_spec
    from dualsmooth.engine.errors import FileError
    from dualsmooth.engine.runs.record import read_configuration
    from dualsmooth.engine.runs.run_checks import RUN

    configuration: dict[str, Any] = {}
    try:
        configuration = read_configuration(run)
    except FileError:
        if spec is None:
            return None
    if spec is None:
        named = str(configuration["data"])
        if named == IN_MEMORY:
            return None
        try:
            _, place, _ = parse_spec(named)
        except ArgumentError as error:
            rule = "data must name images, or --data must"
            raise FileError(run / RUN, rule, named) from error
        if os.path.exists(place) and not (os.path.isfile(place) or os.path.isdir(place)):
            raise FileError(run / RUN, "data must be a file or a folder", named)
        spec = named if from_run else None
    return images_of_run(configuration, spec, read_classes(classes) if classes else None)


def _bundle(
    seen: "Audit", source: str | None, from_run: bool, about: ImageOptions, trust: bool
) -> "Bundle | None":
    """The networks, at the operating point of the run; None, with a note, if not at hand."""
    from dualsmooth.engine.models.operating_point import as_told
    from dualsmooth.engine.models.sources.load import PRETRAINED, bundled_names, load_bundle

    name, known, found = seen.configuration.get("bundle"), seen.source, None
    if source is not None:
        found = about.load(source, trust=trust)
    elif name in bundled_names() and (known is None or known.bundle == name):
        found = load_bundle(PRETRAINED / str(name))  # and not a folder of this name
    elif from_run and known:
        found = load_bundle(known.bundle, trust=trust, mean=known.mean, std=known.std)
    if found and seen.plan:
        found = as_told(found, seen.plan.bundle)
    named = bool(source or known)  # else one made in memory may have the name of a bundled one
    if found and (named or found.digest == seen.configuration.get("bundle_digest")):
        return found
    hint = f"--bundle {known.bundle!r}" if known else f"its name was {name!r}"
    seen.notes.append(f"bundle not at hand: its digest is unchecked ({hint})")
    return None


def _print(seen: "Audit") -> None:
    for text in seen.passed:
        typer.echo(f"ok     {printable(text)}")
    for text in seen.notes:
        typer.echo(f"note   {printable(text)}")
    for text in seen.trusted:
        typer.echo(f"TRUST  {printable(' '.join(text.split()))}")
    for text in seen.findings[:FINDINGS_SHOWN]:
        typer.echo(f"FOUND  {printable(text)}")
    if len(seen.findings) > FINDINGS_SHOWN:
        typer.echo(f"FOUND  {len(seen.findings) - FINDINGS_SHOWN} more")
    typer.echo(
        f"{printable(seen.folder)}: "
        + (_counted(seen.findings, "finding") if seen.findings else "clean")
        + (f"; {_counted(seen.trusted, 'part')} taken on trust" if seen.trusted else "")
    )


def _counted(texts: list[str], what: str) -> str:
    return f"{len(texts)} {what}" + ("s" if len(texts) > 1 else "")
