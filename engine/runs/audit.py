"""Check a run without trusting it: what ``dualsmooth audit`` does.

Nothing here needs a network or torch, and nothing in a run folder makes it open another file. Every
line of the log is checked and its certificate is derived once more from the recorded votes
(`runs.rederive`), the tables must be those of the log, and digests are compared with
the bundle and the data where they are at hand. What only networks can show, that the votes are
theirs, is `dualsmooth.engine.runs.replay`'s part.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.class_names import check_order
from dualsmooth.engine.data.image_set import IN_MEMORY, ImageSet, data_digest
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.limits import LARGEST_TABLE, open_plain, read_plain, whole_lines
from dualsmooth.engine.machine import machine
from dualsmooth.engine.methods.options import Given
from dualsmooth.engine.records import ids_digest
from dualsmooth.engine.runs.log import LOG, SUMMARY, TABLE
from dualsmooth.engine.runs.record import (
    Source,
    alpha_of_looks,
    check_configuration,
    earlier_looks,
    joint_alpha,
    read_run,
    source_of,
)
from dualsmooth.engine.runs.rederive import (
    NOTHING_GIVEN,
    OTHER_VERSION_TOLERANCE,
    Plan,
    differences,
    plan_of,
    rederive,
)
from dualsmooth.engine.runs.run_checks import RUN, not_a_run, not_of_a_run
from dualsmooth.engine.runs.summary import RADII, rows_of, summarize
from dualsmooth.engine.runs.table import table

OF_AN_ARRAY = (
    " (images of an array have ids 0, 1, .. where image_ids= gave no others: name an npz of just "
    "these images without index, and certify slices with image_ids=data.image_ids[a:b])"
)


@dataclass
class Audit:
    """What an audit of a run folder saw; ``findings`` contradict the run.

    ``trusted`` is what could not be checked, because what shows it is not at hand. ``certificates``
    are those without a finding, by image id; ``plan`` is None if ``run.json`` is damaged.
    """

    folder: Path
    findings: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    certificates: dict[int, Certificate] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    source: Source | None = None
    plan: Plan | None = None

    @property
    def finished(self) -> bool:
        """Whether the run wrote its tables, so that its log must be complete."""
        return (self.folder / TABLE).exists() or (self.folder / SUMMARY).exists()


def audit(folder: Path, data: ImageSet | None = None, given: Given = NOTHING_GIVEN) -> Audit:
    """Check a run folder, finished or not; ``data`` are the images it is said to be about.

    Only a folder without a run is an error: everything else that is wrong is a finding.
    """
    if not os.path.lexists(folder / RUN):
        raise not_a_run(folder)
    seen = Audit(folder)
    try:
        record = read_run(folder)
        seen.configuration, seen.machine = record["configuration"], dict(record["machine"])
        seen.source = source_of(record)
        seen.plan = plan_of(seen.configuration, dataclasses.replace(given, images=data))
        check_configuration(seen.configuration)
    except (FileError, ValueError, KeyError, TypeError) as error:
        seen.findings.append(f"{RUN}: {error}")
        return seen
    seen.passed.append(f"{RUN}: fingerprint, bundle manifest, method, budget")
    if looks := earlier_looks(seen.configuration):
        votes = ", ".join(f"{n:,}" for n, _ in looks)
        alpha = joint_alpha(seen.configuration)
        seen.notes.append(f"grown after {votes} votes: all looks together have alpha {alpha:g}")
    if seen.plan.method.trusted:
        seen.trusted.append(seen.plan.method.trusted)
    seen.notes += not_of_a_run(folder, (LOG, TABLE, SUMMARY))
    _check_log(seen, seen.plan, _tolerance(seen))
    if not seen.findings:
        _check_ids(seen)
        _check_tables(seen)
        _check_data(seen, data)
    return seen


def _tolerance(seen: Audit) -> float:
    recorded = seen.machine.get("versions")
    theirs = recorded if isinstance(recorded, dict) else {}
    here = machine()
    changed = [name for name in ("numpy", "scipy") if theirs.get(name) != here["versions"][name]]
    changed += [k for k in ("processor", "instructions") if seen.machine.get(k) != here[k]]
    if not changed:
        return 0.0
    seen.notes.append(
        f"{' and '.join(changed)} differ from the recorded: floats are compared to "
        f"{OTHER_VERSION_TOLERANCE:g}, not to the last bit"
    )
    return OTHER_VERSION_TOLERANCE


def _check_log(seen: Audit, plan: Plan, tolerance: float) -> None:
    path = seen.folder / LOG
    try:
        with open_plain(path) as file:
            lines = list(whole_lines(path, file))
            rest = os.fstat(file.fileno()).st_size > sum(len(line) + 1 for line in lines)
    except FileError as error:
        seen.findings.append(str(error))
        return
    if rest:
        torn = "the last line is torn"
        (seen.findings if seen.finished else seen.notes).append(f"{LOG}: {torn}")
    previous = -1
    for number, line in enumerate(lines, 1):
        try:
            certificate = _checked(line, plan, tolerance)
            if certificate.image_id in seen.certificates:
                raise ValueError(f"image {certificate.image_id} has a line already")
            if seen.finished and certificate.image_id < previous:
                raise ValueError("images of a finished run must be in order")
        except ValueError as error:
            seen.findings.append(f"{LOG} line {number}: {error}")
            continue
        previous = certificate.image_id
        seen.certificates[certificate.image_id] = certificate
    seen.passed.append(
        f"{LOG}: {len(seen.certificates)} certificates with checksums, votes that add up, disjoint "
        "samples, and every statement derived again from the votes"
    )


def _checked(line: bytes, plan: Plan, tolerance: float) -> Certificate:
    text = line.decode()
    certificate = Certificate.from_json(text)
    if certificate.to_json() != text:
        raise ValueError("not written as the run log writes it")
    if not 0 <= certificate.image_id < 1 << 32:
        raise ValueError("image_id must be in [0, 2^32)")
    if not certificate.seconds >= 0.0:
        raise ValueError("seconds must be >= 0")
    changed = differences(certificate, rederive(plan, certificate, tolerance), tolerance)
    if changed:
        raise ValueError(f"the recorded votes give another {', '.join(changed)}")
    return certificate


def _check_ids(seen: Audit) -> None:
    expected = seen.configuration.get("images")
    found = len(seen.certificates)
    if found == expected:
        if ids_digest(sorted(seen.certificates)) != seen.configuration.get("image_ids_digest"):
            seen.findings.append(f"{LOG}: other images than the run set out to certify")
        else:
            seen.passed.append(f"all {found} images, each once")
    elif seen.finished or not isinstance(expected, int) or found > expected:
        seen.findings.append(f"{LOG}: {found} images, where the run has {expected}")
    else:
        seen.notes.append(f"unfinished: {found} of {expected} images")


def _check_tables(seen: Audit) -> None:
    if not seen.finished:
        seen.notes.append(f"no {TABLE} and {SUMMARY} yet; the column of seconds is unchecked")
        return
    ordered = [seen.certificates[i] for i in sorted(seen.certificates)]
    assert seen.plan is not None
    radii, looks = seen.plan.budget.radii or RADII, alpha_of_looks(seen.configuration)
    summary = summarize(seen.plan.method.name, rows_of(ordered), radii, alpha=looks).to_dict()
    expected = {TABLE: table(ordered), SUMMARY: json.dumps(summary, indent=1) + "\n"}
    for name, text in expected.items():
        try:
            same = read_plain(seen.folder / name, LARGEST_TABLE + len(text)) == text.encode()
        except FileError as error:
            seen.findings.append(f"{name}: {error.value or error.rule}")
            continue
        told = seen.passed if same else seen.findings
        told.append(f"{name}: {'agrees with' if same else 'is not the one of'} {LOG}")


def _check_data(seen: Audit, data: ImageSet | None) -> None:
    name = seen.configuration.get("data")
    if data is None:
        seen.trusted.append(f"data {name} not at hand: images and labels (--data)")
        return
    ids, hint = sorted(seen.certificates), OF_AN_ARRAY if name == IN_MEMORY else ""
    what = "images and labels"
    if all(c.label is None for c in seen.certificates.values()):
        data, what = data.unlabelled, "images, of which the run has no labels,"
    try:
        places = data.places(ids)
    except ArgumentError as error:
        seen.findings.append(f"{error}{hint}")
        return
    truth = [label if label >= 0 else None for label in data.labels[places].tolist()]
    wrong = [i for i, label in zip(ids, truth, strict=True) if label != seen.certificates[i].label]
    if wrong:
        seen.findings.append(f"data {data.name}: other labels, first at image {wrong[0]}{hint}")
    if len(ids) != seen.configuration.get("images"):
        seen.notes.append("digest of the data unchecked until the run is finished")
    elif data_digest(data, ids) != seen.configuration.get("data_digest"):
        seen.findings.append(f"data {data.name}: other images than those recorded{hint}")
    else:
        seen.passed.append(f"data {data.name}: {what} have the recorded digest")
        if min(places) or len({b - a for a, b in pairwise(sorted(places))}) > 1:
            seen.notes.append(f"data {data.name}: not the first or every k-th image, but chosen")


def check_bundle(seen: Audit, digest: str, source: str) -> None:
    """Compare a bundle at hand with the recorded one."""
    if digest != seen.configuration.get("bundle_digest"):
        seen.findings.append(f"bundle {source}: has another digest than the recorded one")
    else:
        seen.passed.append(f"bundle {source}: has the recorded digest")


def check_classes(seen: Audit, data: ImageSet, known: Sequence[str]) -> None:
    """Say so if the run alone names the classes; ``known`` are the bundle's, whose order counts."""
    if data.classes_given and data.classes != tuple(known):
        seen.trusted.append("names and numbers of the classes, and so what is correct (--classes)")
    try:
        check_order(data, known, "the bundle")
    except ArgumentError as error:
        seen.findings.append(str(error))
