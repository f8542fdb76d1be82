"""Which images a recipe is trained on, and in which order."""

from dataclasses import replace

import numpy as np

from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.prepare import AS_STORED, Prepare
from dualsmooth.engine.data.spec import WITH_SPLIT, load_images
from dualsmooth.engine.errors import ArgumentError


def training_images(spec: str, count: int | None = None, prepare: Prepare = AS_STORED) -> ImageSet:
    """The training split of a SPEC, or its first images.

    Images that lie class after class, as `folder:` reads them, are shuffled first, always the same
    way: the first ones then hold every class, and so does whatever a recipe sets apart.
    """
    images = load_images(training_split(spec), prepare=prepare)
    images = replace(images, images=np.asarray(images.images), named=())
    if count is not None and (type(count) is not int or not 1 <= count <= len(images)):
        raise ArgumentError("max", f"must be an integer in [1, {len(images)}]", count)
    order = np.arange(len(images))
    if (np.diff(images.labels) >= 0).all() and len(set(images.labels.tolist())) > 1:
        order = np.random.default_rng(0).permutation(order)
    elif count is None:
        return images
    chosen = order[:count]
    ids = None if images.ids is None else images.ids[chosen]
    pixels, labels = images.images[chosen], images.labels[chosen]
    return replace(images, images=pixels, labels=labels, ids=ids, named=())


def training_split(spec: str) -> str:
    """The SPEC with `:train` added where a split can be named and none is."""
    kind, colon, _ = spec.partition(":")
    if kind not in WITH_SPLIT or spec.endswith((":train", ":test")):
        return spec
    return spec + (":train" if colon or kind == "digits" else "::train")
