"""``run.json``: what its configuration must hold, wherever it came from."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dualsmooth.engine.backends import Tried, file_of_choices, libraries_of
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.checks import open_unit
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.json_file import read_json
from dualsmooth.engine.machine import arithmetic, machine
from dualsmooth.engine.records import digest_of, typed_record
from dualsmooth.engine.runs.run_checks import RUN, SOURCE, check_equal, not_a_run

FORMAT = 2
"""Since 2 the fingerprint covers the machine too."""


@dataclass(frozen=True)
class Source:
    """How a bundle was named: the arguments of `load_bundle`."""

    bundle: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class About:
    """What is told of a run beside its configuration: how its bundle was named, and what ``auto``
    tried for it.
    """

    source: Mapping[str, Any] | None = None
    tried: Mapping[str, Tried] = field(default_factory=dict)


NOTHING = About()


@dataclass(frozen=True)
class Configuration:
    """Fields that `dualsmooth.engine.runs.describe` and the run itself write."""

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
    earlier: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        open_unit("alpha", self.alpha)
        if min(self.images, self.seed, self.attempt, self.batch_size) < 0:
            raise ValueError("images, seed, attempt and batch_size must be >= 0")
        if Budget(self.n0, self.n, self.radii, self.tolerance).kind != self.budget:
            raise ValueError("budget must be that of radii and tolerance")
        for look in self.earlier:
            if len(look) != 2 or not (0 < look[0] < self.n and 0.0 < look[1] < 1.0):
                raise ValueError("earlier must hold numbers of fewer votes and their levels")


def read_record(path: Path) -> dict[str, Any]:
    """The object in a ``run.json``, its outermost fields there and of their kind."""
    if not os.path.lexists(path):
        raise not_a_run(path.parent)
    record, rule = read_json(path), "must be the JSON record of a run"
    kinds = {"format": int, "fingerprint": str, "configuration": dict, "machine": dict}
    if not isinstance(record, dict):
        raise FileError(path, rule, "no object")
    if missing := [name for name in kinds if not isinstance(record.get(name), kinds[name])]:
        raise FileError(path, rule, f"no {missing[0]} in it")
    return record


def source_of(record: Mapping[str, Any]) -> Source | None:
    """How a run's bundle was named; None if it had no name. `ValueError` if it is none."""
    return typed_record(Source, record[SOURCE]) if record.get(SOURCE) else None


def check_configuration(configuration: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless a configuration has every field, each of its kind.

    Further fields are those of later versions: what reads them checks them.
    """
    known = {field.name for field in fields(Configuration)}
    typed_record(Configuration, {k: v for k, v in configuration.items() if k in known})


def earlier_looks(configuration: Mapping[str, Any]) -> list[list[float]]:
    """Looks at fewer votes that went before a run: n and level of each."""
    return [[int(n), float(alpha)] for n, alpha in configuration.get("earlier", ())]


def joint_alpha(configuration: Mapping[str, Any]) -> float:
    """Failure probability per image over all looks at a run, the last one included."""
    return math.fsum(
        [configuration["alpha"], *(alpha for _, alpha in earlier_looks(configuration))]
    )


def alpha_of_looks(configuration: Mapping[str, Any]) -> float | None:
    """The joint alpha of a run that has grown; None for others, whose certificates say theirs."""
    return joint_alpha(configuration) if earlier_looks(configuration) else None


def read_configuration(folder: Path) -> dict[str, Any]:
    """The configuration in a run's ``run.json``, every field of it checked."""
    configuration: dict[str, Any] = read_run(folder)["configuration"]
    try:
        check_configuration(configuration)
    except ValueError as error:
        raise FileError(folder / RUN, "must describe a run", error) from error
    return configuration


def read_run(folder: Path) -> dict[str, Any]:
    """A run's ``run.json``, its fingerprint checked."""
    path, record = folder / RUN, read_record(folder / RUN)
    if record["format"] not in (1, FORMAT):
        rule = f"must be the JSON record of a run, format 1 or {FORMAT}"
        raise FileError(path, rule, record["format"])
    configuration = record["configuration"]
    covered = {"configuration": configuration, "machine": record["machine"]}
    if record["fingerprint"] != digest_of(configuration if record["format"] == 1 else covered):
        rule = "must have the fingerprint of its configuration and machine"
        raise FileError(path, rule, "an altered one")
    return record


def begun(configuration: dict[str, Any], about: About, grown: Path | None) -> dict[str, Any]:
    """The record of a run that begins here, or grows in a folder and keeps what was chosen then."""
    kept = read_run(grown)["machine"] if grown else {}
    if about.tried:
        kept = {"backends": about.tried, "backends_file": file_of_choices()}
    here = machine() | {name: kept[name] for name in ("backends", "backends_file") if name in kept}
    covered = {"configuration": configuration, "machine": here}
    record = {"format": FORMAT, "fingerprint": digest_of(covered), **covered}
    return record | ({SOURCE: dict(about.source)} if about.source else {})


def check_resumed(folder: Path, configuration: dict[str, Any]) -> None:
    """Refuse to go on with a run that has another configuration, or began with other arithmetic."""
    record = read_run(folder)
    check_equal(folder / RUN, "configuration", record["configuration"], configuration)
    votes = libraries_of(configuration.get("sampler"), configuration.get("bundle_manifest"))
    libraries = ("dualsmooth", "numpy", "scipy", *votes)
    device = str(configuration.get("device"))
    theirs, ours = (arithmetic(m, libraries, device) for m in (record["machine"], machine()))
    check_equal(folder / RUN, "arithmetic", theirs, ours)
