"""A folder of images per class, and which number each class has."""

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.data.class_names import numbered
from dualsmooth.engine.data.image_files import SUFFIXES, read_image
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.prepare import AS_STORED, Prepare
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.images import DeferredImages

_OF_SYSTEMS = {"__macosx", "lost+found", "__pycache__", "system volume information"}
_OF_DRIVES = {"@eadir", "$recycle.bin", "#recycle", "@recycle"}


def read_folder(
    folder: Path,
    name: str,
    *,
    shape: tuple[int, int, int] | None = None,
    classes: Sequence[str] | None = None,
    known: Sequence[str] = (),
    most: int | None = None,
    prepare: Prepare = AS_STORED,
) -> ImageSet:
    """One folder of images per class, as `load_images` says: each read when it is asked for."""
    if most is not None:
        positive_integer("max", most)
    try:
        files = {place.name: _images(place) for place in sorted(folder.iterdir()) if _counts(place)}
    except OSError as error:
        raise FileError(error.filename, "must be readable", error.strerror) from error
    files = {name: found for name, found in files.items() if found}
    if not files:
        hint = f"folder:DIR reads DIR/CLASS/FILE, known files: {' '.join(sorted(SUFFIXES))}"
        raise FileError(folder, "must hold one folder per class, with images", "none", hint)
    once = {name for name, count in Counter(known).items() if count == 1}
    names = tuple(known) if {*files} <= once else tuple(files)
    if classes is not None:
        names = order_of(classes, tuple(files), folder)
    pairs = [(path, names.index(name)) for name, found in files.items() for path in found]
    paths = [path for path, _ in pairs[:most]]
    labels = np.array([label for _, label in pairs[:most]], np.int64)
    images = _deferred(paths, shape, prepare) if shape else _all(paths, prepare)
    return ImageSet(images, labels, name, names, classes is not None, prepare)


def _counts(place: Path) -> bool:
    """Whether an entry of the folder may be a class."""
    name = place.name.lower()
    return place.is_dir() and not name.startswith(".") and name not in _OF_SYSTEMS | _OF_DRIVES


def _images(place: Path) -> list[Path]:
    """The image files of a class; a folder in it that has some as well is refused."""
    entries = sorted(place.iterdir())
    for inner in filter(_counts, entries):
        if lost := next(filter(_is_image, sorted(inner.rglob("*"))), None):
            hint = f"{place} would be a class: perhaps you mean folder:{place}"
            raise FileError(lost, "must lie in DIR/CLASS/FILE, not deeper", "one further in", hint)
    return [path for path in entries if _is_image(path)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.name[0] != "." and not path.is_dir()


def _deferred(paths: list[Path], shape: tuple[int, int, int], prepare: Prepare) -> DeferredImages:
    def read(place: int) -> NDArray[np.uint8]:
        return _fitting(paths[place], shape, prepare, "the network")

    return DeferredImages(range(len(paths)), shape, np.uint8, read, paths.__getitem__)


def _all(paths: list[Path], prepare: Prepare) -> NDArray[np.uint8]:
    """Images of the size of the first, all in three channels if one has colours."""
    first = read_image(paths[0], None, prepare).shape
    size, of = (first[0], first[1], None), f"the first image, {paths[0]}"
    pixels = [_fitting(path, size, prepare, of) for path in paths]
    channels = max(image.shape[2] for image in pixels)
    return np.stack([np.broadcast_to(image, (*first[:2], channels)) for image in pixels])


def _fitting(
    path: Path, shape: tuple[int, int, int | None], prepare: Prepare, of: str
) -> NDArray[np.uint8]:
    pixels = read_image(path, shape[2], prepare)
    if pixels.shape[:2] != shape[:2]:
        rule = f"must have the height and width of {of}: {shape[:2]}"
        hint = "images are not resized here"
        if of == "the network":
            hint = "--resize N and --crop N of certify, train and others make other images of them"
        raise FileError(path, rule, pixels.shape[:2], hint)
    return pixels


def order_of(lines: Sequence[str], folders: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Names of classes by number, so that each folder is among them.

    A line is a name, or `INDEX NAME`; where the folders are named so, the first word of the name
    (`n01440764 tench`) or the index stands for it.
    """
    rows = numbered(lines)
    plain = list(enumerate(lines))
    first_words = [(index, name.split()[0] if name else "") for index, name in rows]
    readings = [plain, rows, first_words]
    if rows != plain:
        readings.append([(index, str(index)) for index, _ in rows])
    for reading in readings:
        known = {name: index for index, name in reading if name}
        if set(folders) <= set(known) and len(known) == sum(bool(name) for _, name in reading):
            names = [""] * (1 + max(known.values()))
            for name, index in known.items():
                names[index] = name
            return tuple(names)
    known_names = ({*map(itemgetter(1), reading)} for reading in readings)
    nearest = max(known_names, key=lambda names: len(names & {*folders}))
    missing = next((name for name in folders if name not in nearest), folders[0])
    first = "".join(lines[:1])[:40]
    received = f"{len(lines)} lines, the first {first!r}, and the folder {folder / missing}"
    hint = "one name a line, INDEX NAME, or names that begin with the folder's name"
    raise ArgumentError("classes", "must name every folder, and none twice", received, hint)
