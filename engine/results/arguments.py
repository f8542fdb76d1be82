"""What one call names: a model of any kind, and images of any kind."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.class_names import check_order
from dualsmooth.engine.data.collect import channels_last, collect, is_collection
from dualsmooth.engine.data.image_set import IN_MEMORY, UNKNOWN_LABEL, ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError, about_images_of, reason_of
from dualsmooth.engine.images import AnyArray, DeferredImages, check_ids, check_labels
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.registry import check_named, choose_method
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import ONE_LOGIT
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.describe import options_of
from dualsmooth.engine.samplers.inputs import Images, share

if TYPE_CHECKING:
    import torch

Model: TypeAlias = "Method | Bundle | str | Path | Callable[[torch.Tensor], torch.Tensor]"
"""A method, a bundle, a text as `load_bundle` takes it, or a module or function to logits."""

ImageSource: TypeAlias = AnyArray | ImageSet | Iterable[Any]
"""An array, a set of images with labels, what `collect` reads, or a SPEC as a text."""


def method_and_images(
    of: Callable[..., Any],
    model: Model,
    images: ImageSource,
    given: tuple[Iterable[int] | None, Iterable[int] | None],
    options: dict[str, Any],
) -> tuple[Method, Images, ImageSet]:
    """The method, the images where they lie, and the same images on the host with labels.

    ``of`` is the function called, ``given`` are labels and image ids, where it takes them. Options
    are those of `choose_method`; a method has its own and takes none.
    """
    check_named(of, options)
    source = load_bundle(model) if isinstance(model, str | Path) else model
    inside = _bundle_in(source)
    shape = None if inside is None else inside.input_shape
    first = images[0] if isinstance(images, list | tuple) and images else None
    is_model = any(callable(given) or hasattr(given, "networks") for given in (images, first))
    is_named = isinstance(images, Mapping | Path) or isinstance(first, str | Path)
    if is_model or is_named or images is None:
        rule = "must be an array, an image set, a data set or a SPEC as a text"
        hint = "npz:FILE or folder:DIR as a text; image files: [PIL.Image.open(f) for f in files]"
        hint = "a model goes first" if is_model else hint
        raise ArgumentError("images", rule, type(images).__name__, hint)
    if isinstance(images, tuple) and len(images) == 2 and np.ndim(images[0]) == 4:
        rule, hint = "must be the images alone", "pass labels=labels"
        raise ArgumentError("images", rule, "a pair of arrays", hint)
    if isinstance(images, str):
        known = () if inside is None else inside.classes
        with about_images_of("images"):
            images = load_images(images, shape=shape, known=known)
    elif is_collection(images):
        images = collect(images)
    array = share(images.images if isinstance(images, ImageSet) else images, "images")
    if not isinstance(images, ImageSet):
        array = channels_last(array, shape)
    if isinstance(source, Method):
        named = [name for name, value in options.items() if value not in (None, False)]
        if named:
            rule, hint = "must be left out with a method", "it has options of its own"
            raise ArgumentError(named[0], rule, options[named[0]], hint)
        options_of(source)  # before any vote
        method = source
    else:
        inside = _bundle_of(source, array) if inside is None else inside
        method = choose_method(inside, **options)
    data = _as_set(images, array, *given)
    if method.serial and data.image_ids != sorted(data.image_ids):
        rule, hint = f"must ascend with {method.name}", "a saved run has the order of ids"
        raise ArgumentError("image_ids", rule, "another order", hint)
    highest = int(data.labels.max(initial=UNKNOWN_LABEL))
    if inside is not None and highest >= inside.num_classes:
        raise ArgumentError("labels", f"must be below {inside.num_classes}, the classes", highest)
    if inside is not None:
        check_order(data, inside.classes, f"bundle {inside.name}")
    return method, array, data


def budget_of(budget: Budget | None, **votes: int | None) -> Budget:
    """The votes asked for: a budget, or n and n0 of a fixed one."""
    given = {name: count for name, count in votes.items() if count is not None}
    if budget is None:
        return Budget.fixed(**given)
    for name, count in given.items():
        hint = f"it has an {name} of its own"
        raise ArgumentError(name, "must be left out beside a budget", count, hint)
    return budget


def _bundle_in(model: Any) -> Bundle | None:
    networks = model.networks if isinstance(model, Method) else model
    return networks if isinstance(networks, Bundle) else None


def _as_set(
    images: ImageSource,
    array: Images,
    labels: Iterable[int] | None,
    image_ids: Iterable[int] | None,
) -> ImageSet:
    known = None if labels is None else np.array(check_labels(labels, len(array)), np.int64)
    ids = None if image_ids is None else np.array(check_ids(image_ids, len(array)), np.int64)
    pixels: Any = array
    if not isinstance(array, np.ndarray | DeferredImages):
        pixels = (array if array.element_size() == 1 else array.float()).cpu().numpy()
    if pixels.dtype.kind == "f" and pixels.dtype.str != "<f4":  # as a file of them is read again
        pixels = pixels.astype(np.float32)
    if isinstance(images, ImageSet):
        if known is not None:  # whose names are not those of the set
            labels = images.labels if np.array_equal(known, images.labels) else known
            images = replace(images, labels=labels, classes=())
        if ids is not None and ids.tolist() != images.image_ids:
            images = replace(images, ids=ids)
        return replace(images, images=pixels, named=())
    truth = np.full(len(array), UNKNOWN_LABEL, np.int64) if known is None else known
    return ImageSet(pixels, truth, IN_MEMORY, (), ids=ids)


def _bundle_of(function: Any, array: Images) -> Bundle:
    """A bundle of a module or function over images of this shape; its classes are counted."""
    from torch import nn

    from dualsmooth.engine.samplers.classifier import bundle_for, make_ready

    if not callable(function) or isinstance(function, type):
        rule = "must be a method, a bundle, a name, a path, or a module or function to logits"
        kind = function.__name__ if isinstance(function, type) else type(function).__name__
        received, hint = (
            (f"the class {kind}", f"pass {kind}()") if callable(function) else (kind, "")
        )
        if isinstance(function, Mapping):
            hint = "load a state_dict into its module first"
        raise ArgumentError("model", rule, received, hint)
    if array.ndim != 4:
        rule = "must have shape (count, height, width, channels)"
        hint = "one image: images[None]; grey images: images[..., None]" if array.ndim == 3 else ""
        raise ArgumentError("images", rule, tuple(array.shape), hint)
    height, width, channels = array.shape[1:]
    shape = (channels, height, width)
    function = make_ready(function, "model") if isinstance(function, nn.Module) else function
    return bundle_for(function, shape, _classes(function, shape), type(function).__name__, "model")


def _classes(function: Any, shape: tuple[int, int, int]) -> int:
    """How many logits two black images get; a module is put into evaluation mode."""
    import torch

    from dualsmooth.engine.models.logits import hint_at, kind_of, logits_in

    rule = f"must map images (n, {', '.join(map(str, shape))}) to logits (n, classes)"
    try:
        with torch.inference_mode():
            received = function(torch.zeros(2, *shape))
    except Exception as error:  # whatever the function and its libraries raise
        reason = reason_of(error)
        hint = hint_at(reason, "images are (count, height, width, channels)")
        raise ArgumentError("model", rule, reason, hint) from error
    logits = logits_in(received)
    if logits is None:
        hint = "logits alone: lambda x: model(x)[0]" if isinstance(received, tuple | list) else ""
        raise ArgumentError("model", rule, kind_of(received), hint)
    if logits.ndim != 2 or logits.shape[1] < 2:
        hint = ONE_LOGIT if logits.ndim == 2 else "logits, not their argmax or loss"
        raise ArgumentError("model", rule, tuple(logits.shape), hint)
    return int(logits.shape[1])
