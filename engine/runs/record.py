"""What the configuration in a ``run.json`` must hold, wherever it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.checks import open_unit
from dualsmooth.engine.records import typed_record


@dataclass(frozen=True)
class Configuration:
    """Fields that `dualsmooth.engine.runs.certify.describe` and the run itself write."""

    method: str
    options: dict[str, Any]
    bundle: str
    bundle_digest: str
    bundle_manifest: dict[str, Any]
    data: str
    data_digest: str
    images: int
    image_ids_digest: str
    budget: str
    radii: tuple[float, ...]
    tolerance: float | None
    n0: int
    n: int
    alpha: float
    seed: int
    attempt: int
    device: str
    precision: str
    noise: str
    batch_size: int
    sampler: str

    def __post_init__(self) -> None:
        open_unit("alpha", self.alpha)
        if min(self.images, self.seed, self.attempt, self.batch_size) < 0:
            raise ValueError("images, seed, attempt and batch_size must be >= 0")
        if Budget(self.n0, self.n, self.radii, self.tolerance).kind != self.budget:
            raise ValueError("budget must be that of radii and tolerance")


def check_configuration(configuration: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless a configuration has every field, each of its kind.

    Further fields are those of later versions: what reads them checks them.
    """
    known = {field.name for field in fields(Configuration)}
    typed_record(Configuration, {k: v for k, v in configuration.items() if k in known})
