"""What decides the certificates of a run, as its ``run.json`` says it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dualsmooth.engine.backends import AUTO, recorded_backend
from dualsmooth.engine.data.image_set import ImageSet, data_digest
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.records import ids_digest
from dualsmooth.engine.runtime.session import RECORDED, bundle_of
from dualsmooth.engine.settings import Settings


def describe(
    method: Method,
    data: ImageSet,
    image_ids: Sequence[int],
    settings: Settings,
    positions: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Everything that decides the certificates of a run, for ``run.json`` and for resuming.

    ``positions`` of the images in the data are their ids by default.
    """
    bundle = bundle_of(method)
    return {
        "method": method.name,
        "options": method.record,
        "bundle": bundle.name,
        "bundle_digest": bundle.digest,
        "bundle_manifest": bundle.manifest,
        "data": data.name,
        "data_digest": data_digest(data, image_ids if positions is None else positions),
        "images": len(image_ids),
        "image_ids_digest": ids_digest(image_ids),
        "budget": settings.budget.kind,
        "radii": list(settings.budget.radii),
        "tolerance": settings.budget.tolerance,
        "n0": settings.budget.n0,
        "n": settings.budget.n,
        "alpha": settings.alpha,
        **{name: getattr(settings, name) for name in RECORDED},
    } | ({"classes": list(data.classes)} if data.classes_given else {})


def as_recorded(settings: Settings, recorded: dict[str, Any]) -> Settings:
    """What was measured when the run began is kept: another choice might cast other votes."""
    if settings.batch_size is None and type(recorded.get("batch_size")) is int:
        settings = dataclasses.replace(settings, batch_size=recorded["batch_size"])
    sampler = str(recorded.get("sampler"))
    if settings.backend == AUTO and sampler.startswith(f"{settings.device}:"):
        settings = dataclasses.replace(settings, backend=recorded_backend(sampler))
    return settings
