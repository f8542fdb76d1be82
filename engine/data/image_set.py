"""Images with their labels and ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import is_not
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.data.prepare import AS_STORED, Prepare
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import check_ids, check_labels
from dualsmooth.engine.records import arrays_digest

UNKNOWN_LABEL = -1
"""Label of an image whose class is not known."""

IN_MEMORY = "memory"
"""The name of images that came as an array, where others have their SPEC."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images with their labels.

    Parameters
    ----------
    images : ndarray or DeferredImages, shape (n, height, width, channels)
        uint8 in 0 .. 255 or float32 in [0, 1]; files are read one by one, when they are asked for.
    labels : ndarray of int64, shape (n,)
        Indices into ``classes``; -1 where the class is not known.
    name : str
        The SPEC the images came from; `replace` of images, labels or ids leaves it out.
    classes : tuple of str
        Class names; empty for a number without a name.
    classes_given : bool
        Whether the user said which number each class has.
    prepare : Prepare
        What was done with the images before they came here.
    ids : ndarray of int64, shape (n,), optional
        Image ids, on which noise depends; None where they are the positions.
    """

    images: Any
    labels: NDArray[np.int64]
    name: str
    classes: tuple[str, ...]
    classes_given: bool = False
    prepare: Prepare = AS_STORED
    ids: NDArray[np.int64] | None = None
    named: tuple[Any, ...] = field(default=(), repr=False, kw_only=True)

    def __post_init__(self) -> None:
        for name, check in (("labels", check_labels), ("ids", check_ids)):
            values = getattr(self, name)
            if values is not None and not isinstance(values, np.ndarray):
                object.__setattr__(self, name, np.array(check(values, len(self.images)), np.int64))
        what = self.images, self.labels, self.ids
        name, *before = self.named or (self.name, *what)
        if name == self.name and any(map(is_not, before, what)):
            object.__setattr__(self, "name", IN_MEMORY)
        object.__setattr__(self, "named", (self.name, *what))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"ImageSet({self.name}: {len(self):,} images of {shape})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def unlabelled(self) -> "ImageSet":
        """The images alone, under the same name."""
        unknown = np.full_like(self.labels, UNKNOWN_LABEL)
        return replace(self, labels=unknown, classes=(), named=())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, none where they are but numbers."""
        named = any(name != str(i) for i, name in enumerate(self.classes))
        return self.classes if named else ()

    @property
    def record(self) -> dict[str, Any]:
        """What a run records of how the images were read, beside their name."""
        told = self.classes if self.classes_given else self.names
        found: dict[str, Any] = {"classes": list(told)} if told else {}
        return found | ({"prepare": self.prepare.record} if self.prepare.record else {})

    @property
    def image_ids(self) -> list[int]:
        """Id of every image."""
        return list(range(len(self))) if self.ids is None else self.ids.tolist()

    def places(self, image_ids: Sequence[int]) -> list[int]:
        """Positions of images by their ids."""
        known: range | dict[int, int] = range(len(self))
        if self.ids is not None:
            known = {image_id: place for place, image_id in enumerate(self.image_ids)}
        if missing := [image_id for image_id in image_ids if image_id not in known]:
            hint = f"its ids are {'positions' if self.ids is None else 'those of its index'}"
            received = f"{self.name}: no {missing[0]}"
            raise ArgumentError("data", "must hold every image", received, hint)
        return [known[image_id] for image_id in image_ids]


def data_digest(data: ImageSet, image_ids: Sequence[int]) -> str:
    """SHA-256 over the images with these ids and their labels."""
    chosen = data.places(image_ids)
    return arrays_digest(data.images[chosen], data.labels[chosen])
