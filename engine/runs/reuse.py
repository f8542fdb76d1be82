"""Votes drawn in earlier runs, read instead of drawn again.

A vote is a pure function of weights, arithmetic, seed, image, phase, sample index and sigma, so a
run that asks for a draw which another run already recorded gets the same votes either way. Trying
another rule or radius on the same images then costs no passes through a network.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from dualsmooth.engine.backends import libraries_of
from dualsmooth.engine.data.image_set import ImageSet, data_digest
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.machine import arithmetic, machine
from dualsmooth.engine.records import ids_digest, unlike
from dualsmooth.engine.runs.record import read_run
from dualsmooth.engine.runtime.known import RecordedVotes

VOTES_DEPEND_ON = (
    "bundle_digest",
    "data_digest",
    "image_ids_digest",
    "seed",
    "attempt",
    "device",
    "sampler",
    "precision",
    "batch_size",
    "noise",
)
"""Entries of a run's configuration that must be equal for its votes to be the same."""
IMAGES = {"data_digest", "image_ids_digest", "images"}
"""Those that say which images they are about."""


def holds(
    run: dict[str, Any], reached: Iterable[int], data: ImageSet, image_ids: list[int]
) -> bool:
    """Whether all images of a run, the first ones or those it has reached, are among these."""
    for ids in (image_ids[: run["images"]], sorted(reached)):
        if ids_digest(ids) == run["image_ids_digest"] and {*ids} <= {*image_ids}:
            return bool(data_digest(data, ids) == run["data_digest"])
    return False


def _apart(theirs: dict[str, Any], here: dict[str, Any], names: list[str]) -> str:
    return "; ".join(f"{name} {theirs.get(name)!r}, here {here[name]!r}" for name in names)


def read_votes(
    folders: Iterable[Path], configuration: dict[str, Any], data: ImageSet, image_ids: list[int]
) -> RecordedVotes:
    """Collect the draws of runs on these images, or some of them, for a run of a configuration.

    A `FileError` if a folder holds no run, one whose votes would differ, or one that an audit
    accuses.
    """
    from dualsmooth.engine.runs.audit import audit

    book = RecordedVotes()
    for folder in folders:
        run = read_run(folder)
        theirs = run["configuration"]
        changed = [k for k in VOTES_DEPEND_ON if theirs.get(k) != configuration[k]]
        seen = audit(folder)
        if changed and {*changed} <= IMAGES and holds(theirs, seen.certificates, data, image_ids):
            changed = []
        if changed:
            text = _apart(theirs, configuration, changed)
            raise FileError(folder, "must have drawn the same votes to reuse them", text)
        libraries = libraries_of(theirs["sampler"], theirs["bundle_manifest"])
        facts = partial(arithmetic, libraries=libraries, device=theirs["device"])
        begun, here = facts(run["machine"]), facts(machine())
        if names := unlike(begun, here):
            text = _apart(begun, here, names)
            raise FileError(folder, "must have drawn its votes on such a machine", text)
        if seen.findings:
            raise FileError(folder, "must pass an audit to be reused", seen.findings[0])
        for certificate in seen.certificates.values():
            for record in certificate.counts:
                book.add(certificate.image_id, record)
    return book
