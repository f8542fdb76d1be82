"""A certificate derived once more from its recorded votes, without networks or images.

The method's own procedure runs again and is fed with the recorded votes. So every statement of the
certificate (class, radius, interval, bounds, tests, error budget) comes out a second time, and a
draw that the procedure does not ask for, or asks for in vain, shows.
"""

import dataclasses
import json
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate, Stamp
from dualsmooth.engine.draws import Counts, Draw, DrawRecord
from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.methods.options import Given, Recorded
from dualsmooth.engine.methods.registry import recorded_method
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.noise.integer import tables_digest
from dualsmooth.engine.printable import printable
from dualsmooth.engine.runs.log import LOG, read_log
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.runs.run_checks import RUN
from dualsmooth.engine.runtime.drive import answered
from dualsmooth.engine.runtime.returned import check_disjoint
from dualsmooth.engine.settings import DEVICES, Settings

OTHER_VERSION_TOLERANCE = 1e-9
"""Relative difference of a float allowed where SciPy, NumPy or the processor is another one."""

NOTHING_GIVEN = Given()
STAMPED = ("method", "seed", "attempt", "precision", "device", "sampler", "batch_size", "noise")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run set out to do, rebuilt from its configuration; its networks cannot be built."""

    bundle: Bundle
    method: Recorded
    budget: Budget
    alpha: float
    stamp: Stamp


def plan_of(configuration: Mapping[str, Any], given: Given = NOTHING_GIVEN) -> Plan:
    """Rebuild what a run set out to do; opens no file, whatever the configuration says.

    ``given`` is what sigma rests on, where it is a function of the image. `ValueError` if the
    configuration contradicts itself or is not one of a run.
    """
    try:
        bundle = Bundle.of_manifest(configuration["bundle_manifest"], configuration["bundle"])
        if bundle.digest != configuration["bundle_digest"]:
            raise ValueError("bundle_digest is not the digest of bundle_manifest")
        method = recorded_method(bundle, configuration["options"], given)
        budget = budget_of(configuration)
        if (method.name, budget.kind) != (configuration["method"], configuration["budget"]):
            raise ValueError("method or budget is not that of its options")
        stamp = stamp_of(configuration, bundle)
        _check_stamp(budget, configuration["alpha"], stamp)
        return Plan(bundle, method, budget, configuration["alpha"], stamp)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(reason_of(error)) from error


def budget_of(configuration: Mapping[str, Any]) -> Budget:
    """The budget of a run."""
    n0, n, tolerance = (configuration[name] for name in ("n0", "n", "tolerance"))
    return Budget(n0, n, tuple(configuration["radii"]), tolerance)


def stamp_of(configuration: Mapping[str, Any], bundle: Bundle) -> Stamp:
    """What all certificates of a run share."""
    return Stamp(bundle=bundle.digest, **{name: configuration[name] for name in STAMPED})


def _check_stamp(budget: Budget, alpha: float, stamp: Stamp) -> None:
    """Refuse settings that no run has."""
    names = ("seed", "attempt", "device", "precision", "batch_size", "noise")
    Settings(budget, alpha, **{name: getattr(stamp, name) for name in names})
    place = str(stamp.sampler).partition(":")[0]
    if "auto" in (stamp.device, stamp.precision) or (place in DEVICES and place != stamp.device):
        raise ValueError("device, precision and sampler must be those of one run")


def rederive(plan: Plan, recorded: Certificate, tolerance: float = 0.0) -> Certificate:
    """The certificate that the recorded votes of an image give.

    ``tolerance`` is the relative difference allowed between the noise level asked for and that of
    the votes. `ValueError` if votes do not add up, two draws share samples, or the procedure asks
    for other draws.
    """
    check_disjoint(recorded.counts)
    left = deque(recorded.counts)

    def answer(draw: Draw) -> Counts:
        if not left:
            raise ValueError(f"the method asks for a draw that is not recorded: {draw}")
        return _votes_of(plan.bundle, draw, left.popleft(), tolerance)

    derived = answered(plan.method.of(recorded).certify(plan.budget, plan.alpha), answer)
    if left:
        raise ValueError(f"{len(left)} draws are recorded that nothing asks for")
    tables = ""
    if plan.stamp.noise == "integer":
        tables = tables_digest(record.sigma for record in recorded.counts)
    image_id, label, seconds = recorded.image_id, recorded.label, recorded.seconds
    return Certificate.of(derived, plan.stamp, image_id, label, recorded.counts, seconds, tables)


def read_derived(
    folder: Path, tell: Callable[[str], object] = warnings.warn
) -> tuple[dict[str, Any], list[Certificate]]:
    """Configuration and certificates of a run, each of them derived again from its votes.

    It tells where they cannot be: the method is none of the engine's, for example. `FileError` if
    the folder holds no valid run, or the votes of an image give another certificate.
    """
    configuration, certificates = read_configuration(folder), read_log(folder)
    try:
        plan = plan_of(configuration)
    except ValueError as error:
        why = f"radii are on trust, as they cannot be derived from the votes ({error})"
        tell(printable(f"{folder / RUN}: {why}"))
        return configuration, certificates
    for recorded in certificates:
        try:
            again = rederive(plan, recorded, OTHER_VERSION_TOLERANCE)
            changed = again != recorded and differences(recorded, again, OTHER_VERSION_TOLERANCE)
            if changed:
                raise ValueError(f"another {', '.join(changed)}")
        except ValueError as error:
            rule = f"image {recorded.image_id} must have the certificate that its votes give"
            raise FileError(folder / LOG, rule, error, f"dualsmooth audit {folder}") from error
    return configuration, certificates


def differences(recorded: Certificate, derived: Certificate, tolerance: float) -> list[str]:
    """Names of the fields that differ; floats may, by a relative tolerance."""
    ours, theirs = (json.loads(c.to_json()) for c in (derived, recorded))
    names = [name for name in {**ours, **theirs} if name != "checksum"]
    return [name for name in names if not _same(ours.get(name), theirs.get(name), tolerance)]


def _votes_of(bundle: Bundle, draw: Draw, record: DrawRecord, tolerance: float) -> Counts:
    asked = [draw.model, draw.sigma, draw.phase.name, draw.level, draw.first, draw.count]
    found = [getattr(record, name) for name in DrawRecord.__slots__[:-1]]
    if not _same(asked, found, tolerance):
        raise ValueError(f"the method asks for the draw {asked}; recorded is {found}")
    if len(record.votes) != bundle.outputs(record.model) + 1:
        rule = f"must have {bundle.outputs(record.model)} classes and the invalid ones"
        raise ArgumentError("votes", rule, record.votes)
    if min(record.votes) < 0 or sum(record.votes) != record.count:
        raise ArgumentError("votes", f"must be >= 0 and sum to {record.count}", record.votes)
    return np.array(record.votes, np.int64)


def _same(ours: object, theirs: object, tolerance: float) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(
            _same(ours[key], theirs[key], tolerance) for key in ours
        )
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(
            _same(a, b, tolerance) for a, b in zip(ours, theirs, strict=True)
        )
    if isinstance(ours, float) and isinstance(theirs, float) and tolerance:
        return abs(ours - theirs) <= tolerance * max(abs(ours), abs(theirs))
    return type(ours) is type(theirs) and ours == theirs
