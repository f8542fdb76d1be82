"""Certified accuracy, ACR and abstention of one run."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.runlog import COLUMNS, RUN, read_log

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True, slots=True)
class Row:
    """What a report needs of one certificate.

    Parameters
    ----------
    radius : float
        L2, input units; 0.0 if abstained.
    correct, abstained : bool
        Whether the certified class is the true one; whether there is none.
    draws : int
        Votes used; 0 if unknown.
    exceeds_radius : bool
        Whether the true radius is shown to be above ``radius`` itself (``decide`` budgets).
    """

    radius: float
    correct: bool
    abstained: bool
    draws: int
    exceeds_radius: bool = False

    def certified_beyond(self, r: float) -> bool:
        """Whether the image counts at r: correct, with a radius strictly above r."""
        return self.correct and (self.radius > r or (self.exceeds_radius and self.radius == r))


@dataclass(frozen=True, slots=True)
class Summary:
    """Certified accuracies of one run.

    Parameters
    ----------
    name : str
        Method and options.
    images : int
        Images certified, abstentions included.
    certified : dict of float to int
        Number of images certified correctly with radius > r, for each radius r.
    acr : float
        Average certified radius: mean over all images of the radius where correct, else 0.
    abstained : int
        Images without a certificate.
    draws : float
        Votes per image.
    """

    name: str
    images: int
    certified: dict[float, int]
    acr: float
    abstained: int
    draws: float

    def accuracy(self, radius: float) -> float:
        """Certified accuracy at a radius, in [0, 1]."""
        return self.certified[radius] / max(1, self.images)

    def to_dict(self) -> dict[str, Any]:
        """As written to ``summary.json``."""
        return {
            "method": self.name,
            "images": self.images,
            "certified_with_radius_above": {f"{r:g}": k for r, k in self.certified.items()},
            "certified_accuracy": {f"{r:g}": self.accuracy(r) for r in self.certified},
            "average_certified_radius": self.acr,
            "abstained": self.abstained,
            "draws_per_image": self.draws,
        }


def summarize(name: str, rows: Sequence[Row], radii: Sequence[float] = RADII) -> Summary:
    """Summarize rows; `Row.certified_beyond` says which images count at a radius."""
    images = max(1, len(rows))
    return Summary(
        name=name,
        images=len(rows),
        certified={r: sum(row.certified_beyond(r) for row in rows) for r in radii},
        acr=math.fsum(row.radius for row in rows if row.correct) / images,
        abstained=sum(row.abstained for row in rows),
        draws=sum(row.draws for row in rows) / images,
    )


def rows_of(certificates: Sequence[Certificate]) -> list[Row]:
    """Rows of certificates."""
    return [
        Row(c.radius, c.correct, c.predicted is None, c.draws, c.exceeds_radius)
        for c in certificates
    ]


def read_rows(path: Path) -> tuple[str, list[Row]]:
    """Name and rows of a run folder or of a TSV file in Cohen et al.'s format.

    Raises
    ------
    FileError
        If it is neither, or is corrupt.
    """
    if path.is_dir():
        if not (path / RUN).exists():
            raise FileError(path, "must be a run folder", f"no {RUN} in it")
        certificates = read_log(path)
        name = certificates[0].method if certificates else path.name
        return name, rows_of(certificates)
    return path.stem, _read_tsv(path)


def _read_tsv(path: Path) -> list[Row]:
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if not {"predict", "radius", "correct"} <= set(reader.fieldnames or ()):
                raise KeyError("a column is missing")
            for number, record in enumerate(reader, 2):
                radius, abstained = float(record["radius"]), record["predict"] == "-1"
                if not radius >= 0.0:
                    raise FileError(path, f"line {number}: radius must be >= 0", radius)
                rows.append(Row(radius, record["correct"] == "1", abstained, 0))
    except OSError as error:
        raise FileError(path, "must be readable", error.strerror or error) from error
    except (KeyError, TypeError, ValueError) as error:
        rule = f"must be a tab-separated table with columns {' '.join(COLUMNS)}"
        raise FileError(path, rule, error) from error
    return rows
