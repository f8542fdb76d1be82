"""Votes drawn in earlier runs, read instead of drawn again.

A vote is a pure function of weights, arithmetic, seed, image, phase, sample index and sigma, so a
run that asks for a draw which another run already recorded gets the same votes either way. Trying
another rule or radius on the same images then costs no passes through a network.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.machine import arithmetic, machine
from dualsmooth.engine.runs.log import read_run
from dualsmooth.engine.settings import libraries_of

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


class Votebook:
    """Recorded draws, by image."""

    def __init__(self) -> None:
        self._votes: dict[int, dict[tuple[object, ...], tuple[int, ...]]] = {}

    @classmethod
    def read(cls, folders: Iterable[Path], configuration: dict[str, Any]) -> "Votebook":
        """Collect the draws of runs.

        Parameters
        ----------
        folders : iterable of Path
            Run folders.
        configuration : dict
            Configuration of the run that wants the votes.

        Raises
        ------
        FileError
            If a folder holds no run, one whose votes would differ, or one that an audit accuses.
        """
        from dualsmooth.engine.runs.audit import audit

        book = cls()
        for folder in folders:
            record = read_run(folder)
            theirs = record["configuration"]
            changed = [k for k in VOTES_DEPEND_ON if theirs.get(k) != configuration[k]]
            if changed:
                text = "; ".join(
                    f"{k} {theirs.get(k)!r}, here {configuration[k]!r}" for k in changed
                )
                raise FileError(folder, "must have drawn the same votes to reuse them", text)
            facts = partial(
                arithmetic, libraries=libraries_of(theirs["sampler"]), device=theirs["device"]
            )
            begun, here = facts(record["machine"]), facts(machine())
            if begun != here:
                raise FileError(
                    folder, "must have drawn its votes on such a machine", f"{begun}, here {here}"
                )
            seen = audit(folder)
            if seen.findings:
                raise FileError(folder, "must pass an audit to be reused", seen.findings[0])
            for certificate in seen.certificates.values():
                known = book._votes.setdefault(certificate.image_id, {})
                for r in certificate.counts:
                    known[r.model, r.sigma, r.phase, r.level, r.first, r.count] = r.votes
        return book

    def part(self, image_ids: Iterable[int]) -> "Votebook":
        """The votes of some images."""
        book = Votebook()
        book._votes = {i: self._votes[i] for i in image_ids if i in self._votes}
        return book

    def find(self, image_id: int, draw: Draw) -> Counts | None:
        """Votes of a draw, or None if no run recorded it."""
        key = (draw.model, draw.sigma, draw.phase.name, draw.level, draw.first, draw.count)
        votes = self._votes.get(image_id, {}).get(key)
        return None if votes is None else np.array(votes, np.int64)
