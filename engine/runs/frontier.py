"""What a bundle certifies at each of its operating points, from one set of votes.

The classifiers vote at every noise level, as with fixed smoothing, and the selector votes once into
fine ordered bins, whose edges are the thresholds of all points. Merged bins are the votes of the
selector at a point, so the method's own procedure gives the certificates of that point. They hold
for a point that was chosen before the votes. The best of many, chosen by its curve, was not: a
frontier is for exploring, and a run at a point that it led to takes another seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import CLASSIFIER, SELECTOR, Bundle
from dualsmooth.engine.models.operating_point import BALANCED, at_point, points_of, thresholds_at
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.summary import Row, Summary, rows_of, summarize
from dualsmooth.engine.runtime.drive import answered
from dualsmooth.engine.settings import Settings

ORACLE = "oracle (not a certificate)"
RADII = tuple(r / 4 for r in range(13))
MOVES = tuple(move / 2 for move in range(-12, 13))
"""What thresholds are moved by, beside the points that have names."""


@dataclass(frozen=True, slots=True)
class Votes:
    """Recorded votes of one image: of each level's classifier and of the selector's bins."""

    levels: Mapping[float, Certificate]
    bins: Certificate
    edges: Sequence[float]

    def answer(self, draw: Draw, thresholds: Sequence[float]) -> Counts:
        """Votes for a draw of the method at a point.

        Draws that choose and draws that estimate stay apart: each has its own noise.
        """
        of = self.bins if draw.model == SELECTOR else self.levels[draw.sigma]
        _, _, kind = draw.phase.name.partition("_")
        record = next((r for r in of.counts if r.phase.endswith(kind)), None)
        if record is None:  # all that chose were invalid: no vote counts for anything
            return np.array([0] * (len(of.counts[0].votes) - 1) + [draw.count], np.int64)
        if draw.count != record.count:
            raise ArgumentError("budget", "must be fixed for a frontier", draw.count)
        votes = np.array(record.votes, np.int64)
        return merged(votes, self.edges, thresholds) if draw.model == SELECTOR else votes


def merged(votes: Counts, edges: Sequence[float], thresholds: Sequence[float]) -> Counts:
    """Votes for levels from votes for bins; every threshold is an edge. The last entry is invalid.

    Bin b has the scores between edges b - 1 and b, so it is above a threshold if edge b - 1 is not
    below it. Joint votes are for pairs of a bin, then of a level, and a class.
    """
    lower = np.array([-np.inf, *edges])
    levels = (lower[:, None] >= np.array(thresholds)).sum(1)
    bins = votes[:-1].reshape(len(lower), -1)
    counts = np.zeros((len(thresholds) + 1, bins.shape[1]), np.int64)
    np.add.at(counts, levels, bins)
    return np.array([*counts.flat, votes[-1]], np.int64)


def frontier(
    bundle: Bundle,
    data: ImageSet,
    ids: list[int],
    settings: Settings,
    folder: Path,
    *,
    runner_up: bool = False,
    moves: Sequence[float] = MOVES,
) -> dict[str, list[Row]]:
    """Rows of every fixed level, of the points and of the oracle, by name.

    Votes are drawn into runs in ``folder``, which go on where they were. Points are those with
    names, by the median and by the plurality rule, and `balanced` moved by each of ``moves``.
    """
    named = points_of(bundle)
    if not named:
        rule = "must have a selector with operating points"
        raise ArgumentError("bundle", rule, f"{bundle.name}, which has none", "as fashion-dual has")
    if settings.budget.kind != "fixed":
        raise ArgumentError("budget", "must be fixed for a frontier", settings.budget.kind)
    tried: list[str | float] = [*named, *moves]
    points = {point: thresholds_at(named, point) for point in tried}
    edges = tuple(sorted({edge for point in points.values() for edge in point}))
    logs = {
        sigma: _drawn(FixedSmoothing(bundle, sigma, runner_up), data, ids, settings, folder)
        for sigma in bundle.sigmas
    }
    voting = FixedSmoothing(_binned(bundle, edges), bundle.tau or 0.0)
    bins = _drawn(voting, data.unlabelled, ids, settings, folder, "bins")
    images = [
        Votes({s: log[i] for s, log in logs.items()}, bins[i], edges) for i in range(len(ids))
    ]
    rows = {f"fixed {sigma:g}": rows_of(log) for sigma, log in logs.items()}
    rows[ORACLE] = oracle(list(rows.values()))
    for point, thresholds in points.items():
        for rule in ("median", "plurality") if point in named else ("median",):
            method = DualSmoothing(at_point(bundle, str(point)), rule, runner_up=runner_up)
            mark = point if isinstance(point, str) else f"{point:+g}"
            name = f"dual ({rule}), {mark}"
            rows[name] = [_routed(method, votes, thresholds, settings) for votes in images]
    return rows


def oracle(fixed: Sequence[list[Row]]) -> list[Row]:
    """Per image the largest correct radius of any fixed sigma; not a certificate."""
    rows = []
    for same in zip(*fixed, strict=True):
        radius = max((row.radius for row in same if row.correct), default=0.0)
        rows.append(Row(radius, radius > 0.0, radius == 0.0, 0))
    return rows


def summaries(rows: Mapping[str, list[Row]]) -> list[Summary]:
    """Certified accuracies at the radii that the oracle reaches."""
    reached = [r for r in RADII if any(row.certified_beyond(r) for row in rows[ORACLE])]
    return [summarize(name, found, reached or RADII[:1]) for name, found in rows.items()]


def _binned(bundle: Bundle, edges: Sequence[float]) -> Bundle:
    """The selector as a classifier of bins, or of pairs of a bin and a class."""
    selector = bundle.networks[SELECTOR]
    kwargs = {**selector.kwargs, "points": {BALANCED: list(edges)}, "prefer": BALANCED}
    voter = {CLASSIFIER: replace(selector, kwargs=kwargs)}
    outputs = (len(edges) + 1) * (bundle.num_classes if bundle.joint else 1)
    return Bundle(f"{bundle.name}-bins", bundle.input_shape, outputs, (), None, voter)


def _drawn(
    method: FixedSmoothing,
    data: ImageSet,
    ids: list[int],
    settings: Settings,
    folder: Path,
    name: str | None = None,
) -> list[Certificate]:
    place = folder / (name or f"fixed-{method.sigma:g}")
    try:
        certify_run(method, data, ids, settings, place, resume=True)
    except FileError as error:
        if "--fresh" not in error.hint:  # which a frontier has not
            raise
        raise FileError(error.path, error.rule, error.value, "use another --out") from error
    return read_log(place)


def _routed(
    method: DualSmoothing, votes: Votes, thresholds: Sequence[float], settings: Settings
) -> Row:
    """What the method's own procedure claims from recorded votes."""
    used = 0

    def answer(draw: Draw) -> Counts:
        nonlocal used
        used += draw.count
        return votes.answer(draw, thresholds)

    claim = answered(method.certify(settings.budget, settings.alpha), answer)
    label = next(iter(votes.levels.values())).label
    correct = claim.predicted is not None and claim.predicted == label
    return Row(claim.radius, correct, claim.predicted is None, used, sigma=claim.sigma)
