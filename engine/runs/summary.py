"""Certified accuracy, ACR and abstention of one run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.bounds.proportions import clopper_pearson_upper
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.runs.limits import sides

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
BAND = 0.95
"""Confidence of the intervals around certified accuracy (two-sided, exact, one radius each)."""


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
    image_id, label, predicted : int or None
        Which image, its true class, and the class certified; None if unknown or abstained.
    sigma : float or None
        Noise level routed to; None if unknown.
    limit : str
        What kept the radius from being larger, as `dualsmooth.engine.runs.limits.Sides` says it;
        where the method abstained, the stage that did; empty if unknown.
    selector_radius, classifier_radius : float or None
        Radius each side allows (selector: infinite where none is needed); None if unknown.
    votes : str
        Votes behind the classifier's bound, as k/n; empty if unknown.
    """

    radius: float
    correct: bool
    abstained: bool
    draws: int = 0
    exceeds_radius: bool = False
    image_id: int | None = None
    label: int | None = None
    predicted: int | None = None
    sigma: float | None = None
    limit: str = ""
    selector_radius: float | None = None
    classifier_radius: float | None = None
    votes: str = ""

    def certified_beyond(self, r: float, at_least: bool = False) -> bool:
        """Whether the image counts at r: correct, with a radius strictly above r.

        ``at_least`` counts radii equal to r too, as Cohen et al.'s analysis does.
        """
        at_itself = at_least or self.exceeds_radius
        return self.correct and (self.radius > r or (at_itself and self.radius == r))


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
    at_least : bool
        Radii equal to r were counted too.
    alpha : float or None
        Failure probability per image over all looks at a run that has grown; None for others.
    labelled : bool
        Whether any image has a label; without one none counts as correct.
    """

    name: str
    images: int
    certified: dict[float, int]
    acr: float
    abstained: int
    draws: float
    at_least: bool = False
    alpha: float | None = None
    labelled: bool = True

    def accuracy(self, radius: float) -> float:
        """Certified accuracy at a radius, in [0, 1]."""
        return self._certified_at(radius) / max(1, self.images)

    def interval(self, radius: float) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the accuracy on images drawn like these."""
        return share_interval(self._certified_at(radius), self.images)

    def _certified_at(self, radius: float) -> int:
        if radius not in self.certified:
            rule = f"must be one of {', '.join(f'{known:g}' for known in self.certified)}"
            raise ArgumentError("radius", rule, radius, "others by summary([RADIUS, ..])")
        return self.certified[radius]

    def to_dict(self) -> dict[str, Any]:
        """As written to ``summary.json``."""
        return {
            "method": self.name,
            "images": self.images,
            "certified_with_radius_above": {f"{r:g}": k for r, k in self.certified.items()},
            "certified_accuracy": {f"{r:g}": self.accuracy(r) for r in self.certified},
            "certified_accuracy_interval_95": {f"{r:g}": self.interval(r) for r in self.certified},
            "average_certified_radius": self.acr,
            "abstained": self.abstained,
            "draws_per_image": self.draws,
        } | ({} if self.alpha is None else {"alpha_of_all_looks": self.alpha})


def bounds_of_shares(k: ArrayLike, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of 95 % Clopper-Pearson intervals of shares k / n; 0 and 1 without images."""
    if not n:
        return np.zeros(np.shape(k)), np.ones(np.shape(k))
    tail = (1.0 - BAND) / 2
    low, high = (bound(k, n, tail) for bound in (clopper_pearson_lower, clopper_pearson_upper))
    return np.asarray(low), np.asarray(high)


def share_interval(k: int, n: int) -> tuple[float, float]:
    """95 % Clopper-Pearson interval of a share; (0, 1) without images."""
    low, high = bounds_of_shares(k, n)
    return float(low), float(high)


def summarize(
    name: str,
    rows: Sequence[Row],
    radii: Sequence[float] = RADII,
    *,
    at_least: bool = False,
    alpha: float | None = None,
) -> Summary:
    """Summarize rows; `Row.certified_beyond` says which images count at a radius."""
    images = max(1, len(rows))
    return Summary(
        name=name,
        images=len(rows),
        certified={r: sum(row.certified_beyond(r, at_least) for row in rows) for r in radii},
        acr=math.fsum(row.radius for row in rows if row.correct) / images,
        abstained=sum(row.abstained for row in rows),
        draws=sum(row.draws for row in rows) / images,
        at_least=at_least,
        alpha=alpha,
        labelled=not rows or any(row.correct or row.label is not None for row in rows),
    )


def rows_of(certificates: Sequence[Certificate]) -> list[Row]:
    """Rows of certificates."""
    return [_row_of(certificate) for certificate in certificates]


def _row_of(c: Certificate) -> Row:
    found = sides(c)
    return Row(
        radius=c.radius,
        correct=c.correct,
        abstained=c.predicted is None,
        draws=c.draws,
        exceeds_radius=c.exceeds_radius,
        image_id=c.image_id,
        label=c.label,
        predicted=c.predicted,
        sigma=c.sigma,
        limit=found.limit,
        selector_radius=found.selector,
        classifier_radius=found.classifier,
        votes=found.votes,
    )
