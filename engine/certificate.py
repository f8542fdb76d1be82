"""Certificates: what is claimed about one image, and everything needed to check the claim."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from dualsmooth.engine.draws import STREAM_VERSION, DrawRecord
from dualsmooth.engine.json_file import parse_json
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.records import checksum, typed_record

ABSTAIN = -1
"""How abstention is written where a class index is expected (`Smooth`, TSV files)."""

MOST_RADIUS = 1e9
"""No record has one as large: sums over a run stay finite, and any image is nearer to another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a procedure claims about one image; fields as in `Certificate`."""

    predicted: int | None
    radius: float
    sigma: float | None
    abstained_at: str | None
    alpha: AlphaLedger
    bounds: tuple[Bound, ...]
    interval: tuple[int, int] | None = None
    region: float | None = None

    @classmethod
    def of(
        cls,
        predicted: int | None,
        radius: float,
        sigma: float | None,
        alpha: AlphaLedger,
        bounds: Iterable[Bound] = (),
        failed_at: str | None = "classifier",
        interval: tuple[int, int] | None = None,
    ) -> "Claim":
        """A class inside a radius > 0; otherwise an abstention, at the stage that failed."""
        certified = radius > 0.0
        return cls(
            predicted=predicted if certified else None,
            radius=float(radius),
            sigma=sigma,
            abstained_at=None if certified else failed_at,
            alpha=alpha,
            bounds=tuple(bounds),
            interval=interval,
        )

    def within(self, region: float) -> "Claim":
        """The claim no further than a region reaches; an abstention if the region is empty."""
        limited = replace(self, region=region if isfinite(region) else None)
        if self.predicted is None:
            return limited
        if not region > 0.0:
            return replace(limited, predicted=None, radius=0.0, abstained_at="region")
        return replace(limited, radius=min(self.radius, region))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What all certificates of a run share: where and how votes were drawn, and by which method."""

    method: str
    seed: int
    attempt: int
    bundle: str
    precision: str
    device: str
    sampler: str
    batch_size: int
    noise: str = "gaussian"
    stream_version: int = STREAM_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The smoothed classifier provably returns ``predicted`` inside the open L2 ball of ``radius``.

    A procedure makes the `Claim`; the runtime adds the `Stamp` of the run and the votes.

    Parameters
    ----------
    predicted : int or None
        Certified class, None if abstained.
    radius : float
        L2, input units, rounded down; 0.0 if abstained.
    sigma : float or None
        Noise level routed to, None if the selector abstained before naming one.
    method : str
        Name and options of the method, for example ``dual(median, interval)``.
    abstained_at : str or None
        ``selector``, ``classifier`` or ``region``; None if certified.
    interval : tuple of int or None
        First and last noise-level index of the set behind the radius (dual methods).
    alpha, bounds : AlphaLedger, tuple of Bound
        Levels and their rule; every bound computed, in order.
    region : float or None
        Radius of the region inside which a rule without noise keeps the noise level (anchors) or
        a memory allows the answer; the radius is at most this. None for methods without one.
    counts, draws : tuple of DrawRecord, int
        Every draw with its votes, in order; votes used in all.
    image_id, label : int, int or None
        Which image, and its true class where known.
    seed, attempt, stream_version : int
        Noise stream.
    bundle, precision, device, sampler, batch_size : str, str, str, str, int
        Networks' digest, arithmetic, device kind, implementation (``cpu``, ``torch`` or
        ``cuda:BACKEND``) and padded batch shape: all fixed, votes are reproducible to the bit.
    noise, noise_tables : str, str
        ``gaussian``: ideal Gaussian noise is assumed; ``integer``: Philox words are assumed to be
        uniform, only images on the 1/255 grid are covered, and the sha256 of the tables of
        thresholds of every sigma drawn from says which law that was.
    seconds : float
        Share of the run's time; the only field that may differ between reruns.
    """

    predicted: int | None
    radius: float
    sigma: float | None
    method: str
    abstained_at: str | None
    alpha: AlphaLedger
    bounds: tuple[Bound, ...]
    interval: tuple[int, int] | None
    region: float | None = None
    counts: tuple[DrawRecord, ...]
    image_id: int
    label: int | None
    draws: int
    seed: int
    attempt: int
    stream_version: int
    bundle: str
    precision: str
    device: str
    sampler: str
    batch_size: int
    noise: str
    noise_tables: str
    seconds: float

    @classmethod
    def of(
        cls,
        claim: Claim,
        stamp: Stamp,
        image_id: int,
        label: int | None,
        records: Sequence[DrawRecord],
        seconds: float,
        noise_tables: str = "",
    ) -> "Certificate":
        """The certificate of a claim, and of the votes it rests on."""
        return cls(
            **_fields(claim),
            **_fields(stamp),
            image_id=image_id,
            label=label,
            counts=tuple(records),
            draws=sum(record.count for record in records),
            noise_tables=noise_tables,
            seconds=seconds,
        )

    def _check_numbers(self) -> None:
        """Raise `ValueError` for numbers that no run can write."""
        classes = [value for value in (self.predicted, self.label) if value is not None]
        counts = (self.draws, self.seed, self.attempt, self.batch_size, *classes)
        most = max(classes, default=0)
        if min(counts) < 0 or not 0 <= self.image_id < 1 << 32 or most >= 1 << 31:
            raise ValueError("ids, classes and counts must be >= 0, and no larger than there are")
        if not (0.0 <= self.radius < MOST_RADIUS and self.seconds >= 0.0):
            raise ValueError(f"radius must be in [0, {MOST_RADIUS:g}), seconds >= 0")

    @property
    def exceeds_radius(self) -> bool:
        """Whether the true radius is shown to be above ``radius`` itself (``decide`` budgets)."""
        return any(bound.tests for bound in self.bounds)

    @property
    def correct(self) -> bool:
        """Whether the certified class is the true one (False if either is unknown)."""
        return self.predicted is not None and self.predicted == self.label

    def to_json(self) -> str:
        """One line of JSON with a checksum over everything but ``seconds``."""
        record = _fields(self)
        record["alpha"] = _fields(self.alpha) | {"total": self.alpha.total}
        record["counts"] = [_fields(draw) for draw in self.counts]
        record["bounds"] = [_fields(bound) for bound in self.bounds]
        for bound in record["bounds"]:
            tests = [_fields(test) for test in bound.pop("tests")]
            if tests:  # lines of the other budgets stay as they always were
                bound["tests"] = tests
        if self.region is None:
            del record["region"]
        seconds = record.pop("seconds")
        signature = checksum(record)
        return json.dumps(record | {"checksum": signature, "seconds": seconds}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Certificate":
        """Read a line written by `to_json`; ValueError if it is none or its checksum does not
        match.
        """
        record = parse_json(line)
        fields = {field.name for field in dataclasses.fields(cls)} | {"checksum"}
        if not isinstance(record, dict) or set(record) | {"region"} != fields:
            raise ValueError("not a certificate record")
        seconds, signature = record.pop("seconds"), record.pop("checksum")
        if signature != checksum(record):
            raise ValueError("checksum does not match the record")
        alpha = record["alpha"]
        if not isinstance(alpha, dict) or "total" not in alpha:
            raise ValueError("alpha must be a ledger with its total")
        ledger = {name: value for name, value in alpha.items() if name != "total"}
        certificate = typed_record(cls, record | {"alpha": ledger, "seconds": seconds})
        if alpha["total"] != certificate.alpha.total:
            raise ValueError("alpha: total must be the joined levels")
        certificate._check_numbers()
        return certificate


def _fields(value: Any) -> dict[str, Any]:
    """Fields of a dataclass with slots, in order; nothing is copied."""
    return {name: getattr(value, name) for name in value.__slots__}
