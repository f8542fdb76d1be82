"""Images to certify or train on, named by one short text (a SPEC).

| SPEC | images |
|---|---|
| `digits[:train]` | scikit-learn's digits, 8x8 grey, in the package; the last 540 are the tests |
| `idx:DIR[:train]` | MNIST layout, official file names, plain or gzipped |
| `cifar10:DIR[:train]` | CIFAR-10, the official Python or binary batches |
| `npz:FILE` | `x` uint8 or float NHWC, `y` integers or none; or `images`, `labels`, `index` |
| `folder:DIR` | one folder of images per class, read with Pillow |

The split is `test` unless the text ends in `:train`. An empty DIR means `$DUALSMOOTH_DATA`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dualsmooth.engine.checks import did_you_mean, positive_integer
from dualsmooth.engine.data import cifar10, readers
from dualsmooth.engine.data.class_names import numbered
from dualsmooth.engine.data.image_set import IN_MEMORY, ImageSet
from dualsmooth.engine.data.kinds import told_apart
from dualsmooth.engine.data.prepare import AS_STORED, Prepare
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.files import at_home
from dualsmooth.engine.images import DeferredImages

DATA_VARIABLE = "DUALSMOOTH_DATA"
DIGITS_TRAIN = 1257
DIGITS_SHAPE = (8, 8, 1)
_KINDS = ("digits", "idx", "cifar10", "npz", "folder")
_FOLDER = "a folder of images"
WITH_SPLIT = ("digits", "idx", "cifar10")
_TAKES = {"npz": ("an archive of NumPy arrays",), "": ("an archive of NumPy arrays", _FOLDER)}


def load_images(
    spec: str,
    *,
    shape: tuple[int, int, int] | None = None,
    classes: Sequence[str] | None = None,
    known: Sequence[str] = (),
    most: int | None = None,
    prepare: Prepare = AS_STORED,
) -> ImageSet:
    """Read the images a SPEC names.

    Parameters
    ----------
    spec : str
        See the table at the top of this module.
    shape : tuple of int, optional
        Shape (height, width, channels) the networks expect: image files of grey become three equal
        channels where they ask for three. Without it they do so beside files of colour.
    classes : sequence of str, optional
        Names of the classes. For `folder:` also which number each has, as
        `dualsmooth.engine.data.class_folders.order_of` reads it; by default the order of the names
        as text.
    known : sequence of str
        Names of the model's classes in order, which count where no others are given: for `folder:`
        if every folder has one of them.
    most : int, optional
        Read no more image files than these.
    prepare : Prepare
        How images are resized, cropped, put on a background before they are certified.

    Returns
    -------
    ImageSet

    Raises
    ------
    ArgumentError
        If the text is not a SPEC, or needs a folder and `$DUALSMOOTH_DATA` is not set.
    FileError
        If a file is missing, truncated, corrupt or not what its name says.
    """
    head, _, place = str(spec).rpartition(":")
    with told_apart(place, *_TAKES.get(head, (_FOLDER,))):
        ways: dict[str, Any] = {"shape": shape, "most": most, "prepare": prepare}
        return _read(spec, classes=classes, known=known, **ways)


def _read(
    spec: str,
    *,
    classes: Sequence[str] | None,
    known: Sequence[str],
    prepare: Prepare,
    **ways: Any,
) -> ImageSet:
    from dualsmooth.engine.data.class_folders import read_folder

    kind, place, split = parse_spec(spec)
    if kind == "folder":
        ways |= {"classes": classes, "known": known, "prepare": prepare}
        return read_folder(_path(kind, place, spec), spec, **ways)
    if prepare.background:
        rule, hint = "belongs to folder:DIR", "no other images can be transparent"
        raise ArgumentError("background", rule, prepare.background, hint)
    images = prepared(_arrays(kind, place, split, spec), prepare)
    if classes is None:
        return images if images.classes else replace(images, classes=tuple(known))
    rows = dict(numbered(classes))
    names = tuple(rows.get(number, "") for number in range(1 + max(rows)))
    return replace(images, classes=names, classes_given=True)


def named_or_digits(
    argument: str, spec: str | None, shape: tuple[int, int, int], digits: str = "digits"
) -> str:
    """A SPEC, or that of digits where none is named and networks of this shape take them."""
    if spec is None and shape != DIGITS_SHAPE:
        rule = f"must name images of shape {shape}"
        raise ArgumentError(argument, rule, None, "for example folder:DIR or npz:FILE")
    return digits if spec is None else spec


def _arrays(kind: str, place: str, split: str, spec: str) -> ImageSet:
    if kind == "digits":
        return _digits(spec, split)
    path = _path(kind, place, spec)
    if kind == "idx":
        return readers.read_idx(path, split, spec)
    if kind == "cifar10":
        return cifar10.read_cifar10(path, split, spec)
    return readers.read_npz(path, spec)


def prepared(data: ImageSet, prepare: Prepare) -> ImageSet:
    """The images as they are certified, each made when it is asked for."""
    if not prepare.record:
        return data
    images, name = data.images, data.name
    if images.dtype != np.uint8:
        raise ArgumentError("resize", "needs 8-bit images", f"{images.dtype} in {name}")

    def called(place: int) -> str:
        return f"image {place} of {name}"

    def read(place: int) -> Any:
        return prepare(images[place], called(place))

    shape = read(0).shape
    made = DeferredImages(range(len(data)), shape, np.uint8, read, called)
    return replace(data, images=made, prepare=prepare, named=())


def images_of_run(
    configuration: Mapping[str, Any],
    given: str | None = None,
    classes: Sequence[str] | None = None,
) -> ImageSet | None:
    """Images read as the run with this configuration, which may be damaged, has read them.

    ``given`` is the SPEC by which the user names them. Without it no file is opened, whatever the
    run itself names: then None. Without ``classes``, names as in `load_images`, they are the run's:
    the set says that they were given unless it has them without being told.
    """
    spec = str(configuration.get("data")) if given is None else given
    if given is None and (spec == IN_MEMORY or parse_spec(spec)[0] != "digits"):
        return None
    manifest, named = configuration.get("bundle_manifest"), configuration.get("classes")
    sizes = manifest.get("input_shape") if isinstance(manifest, dict) else None
    known = isinstance(sizes, list) and len(sizes) == 3 and {*map(type, sizes)} == {int}
    shape = (sizes[0], sizes[1], sizes[2]) if known and sizes else None
    prepare = Prepare.of(configuration.get("prepare", {}))
    found = load_images(spec, shape=shape, classes=classes, prepare=prepare)
    if classes is not None or not isinstance(named, list) or [*found.classes] == named:
        return found
    return load_images(spec, shape=shape, classes=[*map(str, named)], prepare=prepare)


def parse_spec(spec: str) -> tuple[str, str, str]:
    """Kind, place and split of a SPEC; ArgumentError if it is none."""
    if not isinstance(spec, str | Path):
        raise ArgumentError("data", "must be a SPEC, a text", spec, "one of " + _forms())
    spec = str(spec)
    kind, _, rest = spec.partition(":")
    if kind not in _KINDS:
        path = f"npz:{spec}" if spec.endswith(".npz") else f"folder:{spec}"
        fits = os.path.isdir(spec) or (spec.endswith(".npz") and os.path.exists(spec))
        hint = f"did you mean {path}?" if fits else did_you_mean(kind, _KINDS)
        if spec.endswith(".npy"):
            hint = "an array alone: numpy.savez('x.npz', x=x, y=labels), then npz:x.npz"
        hint = hint or "one of " + _forms()
        raise ArgumentError("data", "must start with a known kind", spec, hint)
    split = "test"
    if kind in WITH_SPLIT:
        place, colon, last = rest.rpartition(":")
        if last in ("train", "test") and (colon or kind == "digits"):
            rest, split = place, last
    if kind == "digits" and rest:
        raise ArgumentError("data", "must be digits or digits:train", spec)
    return kind, rest, split


def _forms() -> str:
    return "digits, digits:train, idx:DIR, cifar10:DIR, npz:FILE, folder:DIR"


def _path(kind: str, place: str, spec: str) -> Path:
    if place:
        path = at_home(place)
    elif kind != "npz" and os.environ.get(DATA_VARIABLE):
        path = at_home(os.environ[DATA_VARIABLE])
    else:
        what = "file" if kind == "npz" else f"folder, or the variable {DATA_VARIABLE}"
        raise ArgumentError("data", f"{kind}: needs a {what}", spec)
    try:
        found = path.is_file() if kind == "npz" else path.is_dir()
    except (OSError, ValueError):  # a name the system cannot hold
        found = False
    if not found:
        split = place.rpartition(":")[2] if kind in WITH_SPLIT and ":" in place else ""
        hint = did_you_mean(split, ("train", "test"))
        raise FileError(path, "is not a file" if kind == "npz" else "is not a folder", hint=hint)
    return path


def _digits(spec: str, split: str) -> ImageSet:
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        steps, labels = file["images"], file["labels"]
    part = slice(None, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    pixels = np.rint(steps[part, :, :, None] * (255 / 16)).astype(np.uint8)
    names = tuple(str(digit) for digit in range(10))
    return ImageSet(pixels, labels[part].astype(np.int64), spec, names)


def choose_images(count: int, skip: int, most: int | None) -> list[int]:
    """Every ``skip``-th position among the first ``most`` of ``count`` images, as Cohen's code."""
    positive_integer("skip", skip)
    if most is not None:
        positive_integer("max", most)
    chosen = list(range(0, count if most is None else min(count, most), skip))
    if not chosen:
        raise ArgumentError("data", "must hold at least one image", 0)
    return chosen


def chosen_ids(data: ImageSet, skip: int, most: int | None) -> list[int]:
    """Ids of the images that `choose_images` chooses."""
    known = data.image_ids
    return [known[place] for place in choose_images(len(data), skip, most)]
