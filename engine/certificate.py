"""Certificates: what is claimed about one image, and everything needed to check the claim."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.noise import STREAM_VERSION
from dualsmooth.engine.radius_decision import RadiusTest
from dualsmooth.engine.typed_record import typed_record

ABSTAIN = -1
"""How abstention is written where a class index is expected (`Smooth`, TSV files)."""

LEDGER_RULES = ("single", "minimum", "sum", "chain")


@dataclass(frozen=True, slots=True)
class Bound:
    """A one-sided binomial bound: P(event) >= ``lower``, wrong with probability <= ``alpha``.

    With a ``decide`` budget it stands for the tests of one event: ``lower`` is the p0 of the
    largest radius certified, ``radius`` that radius, k and n those of the last test. What the
    alpha covers then is the radius of the certificate, not each of its bounds alone.

    Parameters
    ----------
    stage : str
        ``selector``, ``classifier``, ``rival`` (the strongest other class), ``earlier`` (a larger
        noise level of a cascade) or ``agreement`` (pairs of networks that do not disagree).
    event : str
        What the votes counted: ``= 3`` (class or level 3), ``>= 1`` or ``<= 1`` (level index),
        ``!= 5`` (every vote but those for class 5).
    sigma : float
        Noise of the votes, and scale of the radius.
    k, n : int
        Votes for the event, and votes in all.
    alpha : float
        Level of this bound.
    lower : float
        Clopper-Pearson lower bound, rounded down.
    radius : float
        sigma * z(lower), rounded down.
    tests : tuple of RadiusTest
        Tests of a ``decide`` budget, in the order of the radii; empty for the others.
    """

    stage: str
    event: str
    sigma: float
    k: int
    n: int
    alpha: float
    lower: float
    radius: float
    tests: tuple[RadiusTest, ...] = ()


@dataclass(frozen=True, slots=True)
class AlphaLedger:
    """Failure probability of a certificate: levels per stage and the rule that joins them.

    Rules: ``single`` (one bound), ``minimum`` (only the smallest radius is claimed, so the largest
    level is the total; intersection-union tests, Berger 1982), ``sum`` (Bonferroni) and ``chain``
    (theorem C1 of `dualsmooth.engine.methods.dual`: selector + classifier). The radii of a
    ``decide`` grid are claimed in a fixed sequence, which costs nothing more.

    Parameters
    ----------
    rule : str
        One of `LEDGER_RULES`.
    budget : float
        Alpha the user asked for.
    levels : dict of str to float
        Level of every bound of a stage, for example ``{"selector": 5e-4, "classifier": 5e-4}``.

    Raises
    ------
    ArgumentError
        If the rule is unknown or the joined total exceeds the budget.
    """

    rule: str
    budget: float
    levels: dict[str, float]

    def __post_init__(self) -> None:
        if self.rule not in LEDGER_RULES:
            raise ArgumentError("rule", f"must be one of {', '.join(LEDGER_RULES)}", self.rule)
        if not self.levels:
            raise ArgumentError("levels", "must name at least one stage", self.levels)
        if not self.total <= self.budget:
            raise ArgumentError("alpha", "ledger must not exceed its budget", self.total)

    @property
    def total(self) -> float:
        """Joined failure probability."""
        levels = self.levels.values()
        return sum(levels) if self.rule in ("sum", "chain") else max(levels)


@dataclass(frozen=True, slots=True)
class DrawRecord:
    """One draw and the votes it returned (last entry: invalid)."""

    model: str
    sigma: float
    phase: str
    level: int
    first: int
    count: int
    votes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The smoothed classifier provably returns ``predicted`` inside the open L2 ball of ``radius``.

    A procedure fills the statistical part; the runtime adds where and how the votes were drawn.

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
    alpha : AlphaLedger
        Levels and their rule.
    bounds : tuple of Bound
        Every bound computed, in order.
    region : float or None
        Radius of the region inside which a rule without noise keeps the noise level (anchors) or
        a memory allows the answer; the radius is at most this. None for methods without one.
    counts : tuple of DrawRecord
        Every draw with its votes, in order.
    image_id, label : int, int or None
        Which image, and its true class where known.
    draws : int
        Votes used.
    seed, attempt, stream_version : int
        Noise stream.
    bundle, precision, device, sampler, batch_size : str, str, str, str, int
        Networks' digest, arithmetic, device kind, implementation (``cpu``, ``torch`` or
        ``cuda:BACKEND``) and padded batch shape: with these fixed, votes are reproducible to the
        bit.
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
    interval: tuple[int, int] | None = None
    region: float | None = None
    counts: tuple[DrawRecord, ...] = ()
    image_id: int = 0
    label: int | None = None
    draws: int = 0
    seed: int = 0
    attempt: int = 0
    stream_version: int = STREAM_VERSION
    bundle: str = ""
    precision: str = ""
    device: str = ""
    sampler: str = ""
    batch_size: int = 0
    noise: str = "gaussian"
    noise_tables: str = ""
    seconds: float = 0.0

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
        """Read a line written by `to_json`.

        Raises
        ------
        ValueError
            If the line is not such a record or its checksum does not match.
        """
        record = _parse(line)
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
        return certificate


def _fields(value: Any) -> dict[str, Any]:
    """Fields of a dataclass with slots, in order; nothing is copied."""
    return {name: getattr(value, name) for name in value.__slots__}


def _parse(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    fields = {field.name for field in dataclasses.fields(Certificate)} | {"checksum"}
    if not isinstance(record, dict) or set(record) | {"region"} != fields:
        raise ValueError("not a certificate record")
    return record


def checksum(record: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits over a JSON object, whatever the order of its fields."""
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
