"""What decides the certificates of a run: checked, and as its ``run.json`` says it."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from dualsmooth.engine.backends import AUTO, answers, recorded_backend
from dualsmooth.engine.data.class_names import check_classes
from dualsmooth.engine.data.image_set import ImageSet, data_digest
from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.images import check_grid, check_images, unit_float
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.records import ids_digest
from dualsmooth.engine.runtime.session import RECORDED, bundle_of
from dualsmooth.engine.settings import PRECISIONS, Settings


def describe(
    method: Method, data: ImageSet, image_ids: Sequence[int], settings: Settings
) -> dict[str, Any]:
    """Everything that decides the certificates of a run, for ``run.json`` and for resuming."""
    bundle = bundle_of(method)
    found: dict[str, Any] = {
        "method": method.name,
        "options": options_of(method),
        "bundle": bundle.name,
        "bundle_digest": bundle.digest,
        "bundle_manifest": bundle.manifest,
        "data": data.name,
        "data_digest": data_digest(data, image_ids),
        "images": len(image_ids),
        "image_ids_digest": ids_digest(image_ids),
        "budget": settings.budget.kind,
        "radii": list(settings.budget.radii),
        "tolerance": settings.budget.tolerance,
        "n0": settings.budget.n0,
        "n": settings.budget.n,
        "alpha": settings.alpha,
        **{name: getattr(settings, name) for name in RECORDED},
    } | data.record
    read: dict[str, Any] = json.loads(json.dumps(found))  # as it will be read again
    return read


def options_of(method: Method) -> dict[str, Any]:
    """A method's options as ``run.json`` has them; `ArgumentError` if JSON has no such values."""
    try:
        read: dict[str, Any] = json.loads(json.dumps(method.record, allow_nan=False))
    except (TypeError, ValueError) as error:
        rule, hint = "must have a `record` of numbers, texts and lists", "override it otherwise"
        raise ArgumentError("method", rule, reason_of(error), hint) from error
    return read


def as_recorded(settings: Settings, bundle: Bundle, recorded: dict[str, Any] | None) -> Settings:
    """Settings with what was measured when the run began: it decides votes."""
    from dualsmooth.engine.samplers.choose import placed  # imports torch

    settings = placed(dataclasses.replace(settings, tried={}), bundle)
    if recorded is None:
        return settings
    if settings.precision == AUTO and recorded.get("precision") in PRECISIONS:
        settings = dataclasses.replace(settings, precision=recorded["precision"])
    if settings.batch_size is None and type(recorded.get("batch_size")) is int:
        settings = dataclasses.replace(settings, batch_size=recorded["batch_size"])
    sampler = str(recorded.get("sampler"))
    if sampler.partition(":")[0] == settings.device:
        backend = recorded_backend(sampler)
        if answers(backend, settings.backend):
            settings = dataclasses.replace(settings, backend=backend)
    return settings


def checked(method: Method, data: ImageSet, image_ids: list[int], settings: Settings) -> Settings:
    """The settings as they run here, once data, method and settings fit each other."""
    from dualsmooth.engine.samplers.choose import resolve  # imports torch

    bundle = bundle_of(method)
    check_images(data.images, bundle.input_shape)
    check_classes(data, bundle.num_classes, f"bundle {bundle.name}", bundle.classes)
    settings = resolve(settings, bundle, method.needs_fp32)
    if settings.noise == "integer":
        check_grid(data.images)
    place = data.places(image_ids)[0]
    first = method.at(unit_float(data.images[place])) if method.needs_image else method
    first.check(settings.budget, settings.alpha)
    return settings
