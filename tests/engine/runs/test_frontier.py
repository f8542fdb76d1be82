"""A frontier gives each point's own certificates, and no more of them are wrong than promised."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.draws import Counts, Draw, DrawRecord, Phase
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import CLASSIFIER, SELECTOR, Bundle
from dualsmooth.engine.models.operating_point import at_point, points_of, thresholds_at
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.frontier import ORACLE, Votes, frontier, merged, summaries
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.runtime.drive import answered
from dualsmooth.engine.settings import Settings
from tests.engine.methods.coverage.conftest import ALPHA, LIMIT, RUNS

SETTINGS = Settings(Budget.fixed(20, 200), precision="fp32", device="cpu")


@pytest.mark.parametrize("fixture", ["ordered_bundle", "joint_bundle"])
def test_merged_bins_are_the_votes_at_a_point(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On the same noise, for every point, with the selector in the place of a classifier."""
    bundle: Bundle = request.getfixturevalue(fixture)
    data = load_images("digits")
    frontier(bundle, data, [0, 5], SETTINGS, tmp_path, moves=(-0.2, 0.05))
    bins = read_log(tmp_path / "bins")
    unlabelled = replace(data, labels=np.full_like(data.labels, -1), classes=())
    named = points_of(bundle)
    points: list[str | float] = [*named, -0.2, 0.05]
    edges = sorted({t for point in points for t in thresholds_at(named, point)})
    for point in points:
        selector = at_point(bundle, str(point)).networks[SELECTOR]
        outputs = bundle.outputs(SELECTOR)
        voter = Bundle("voter", (8, 8, 1), outputs, (), None, {CLASSIFIER: selector})
        out = tmp_path / f"at {point}"
        certify_run(FixedSmoothing(voter, 0.5), unlabelled, [0, 5], SETTINGS, out)
        for found, expected in zip(bins, read_log(out), strict=True):
            for ours, theirs in zip(found.counts, expected.counts, strict=True):
                votes = merged(np.array(ours.votes), edges, thresholds_at(named, point))
                assert votes.tolist() == list(theirs.votes)


def test_every_point_stands_beside_the_fixed_levels(ordered_bundle: Bundle, tmp_path: Path) -> None:
    data, ids = load_images("digits"), [0, 100, 200]
    rows = frontier(ordered_bundle, data, ids, SETTINGS, tmp_path, moves=(-100.0, 100.0))
    again = frontier(ordered_bundle, data, ids, SETTINGS, tmp_path, moves=(-100.0, 100.0))
    assert rows == again  # resumes, draws nothing
    told = read_configuration(tmp_path / f"fixed-{ordered_bundle.sigmas[0]:g}")
    assert told["bundle_digest"] == ordered_bundle.digest  # an audit has nothing else to compare
    voter = read_configuration(tmp_path / "bins")
    assert (voter["bundle"], voter["data"]) == (f"{ordered_bundle.name}-bins", "digits")
    seen = audit(tmp_path / "bins", data)
    assert (seen.findings, "of which the run has no labels" in seen.passed[-1]) == ([], True)
    with pytest.raises(FileError, match=r"configuration to resume.*\(use another --out\)$"):
        frontier(ordered_bundle, data, ids, replace(SETTINGS, seed=1), tmp_path)
    assert list(rows) == [
        *(f"fixed {sigma:g}" for sigma in ordered_bundle.sigmas), ORACLE,
        *(f"dual ({rule}), {p}" for p in points_of(ordered_bundle) for rule in RULES),
        "dual (median), -100", "dual (median), +100",
    ]  # fmt: skip
    for extreme, level in (("-100", 0.5), ("+100", 0.12)):  # thresholds no score reaches
        moved, fixed = rows[f"dual (median), {extreme}"], rows[f"fixed {level:g}"]
        assert [r.sigma for r in moved] == [level] * 3
        assert [r.correct for r in moved] == [r.correct for r in fixed]
        selector = stats.norm.ppf(0.001 ** (1 / 200)) * 0.5
        for ours, theirs in zip(moved, fixed, strict=True):
            assert ours.radius == pytest.approx(min(theirs.radius, selector), abs=1e-6)
    most = {s.name: s.acr for s in summaries(rows)}
    assert max(most.values()) == most[ORACLE]


RULES = ("median", "plurality")


def test_a_level_at_which_every_guess_is_invalid_counts_for_nothing() -> None:
    """A fixed level stops there, and another level's class asks it for its estimate."""
    guess = DrawRecord("classifier", 0.5, "CLASS_GUESS", 0, 0, 20, (0, 0, 0, 20))
    recorded: Any = SimpleNamespace(counts=(guess,))
    votes = Votes({0.5: recorded}, recorded, ())
    asked = Draw("classifier", 0.5, Phase.CLASS_ESTIMATE, 0, 200)
    assert votes.answer(asked, ()).tolist() == [0, 0, 0, 200]


def test_what_has_no_frontier_is_named(
    tiny_bundle: Path, ordered_bundle: Bundle, tmp_path: Path
) -> None:
    from dualsmooth.engine.models.sources.load import load_bundle

    data = load_images("digits")
    with pytest.raises(ArgumentError, match="bundle must have a selector with operating points"):
        frontier(load_bundle(tiny_bundle), data, [0], SETTINGS, tmp_path)
    precise = Settings(Budget.precise(), precision="fp32")
    with pytest.raises(ArgumentError, match="budget must be fixed for a frontier"):
        frontier(ordered_bundle, data, [0], precise, tmp_path)
    assert list(tmp_path.iterdir()) == []


EDGES = (-0.3, -1e-9, 0.3)
"""The score at the image is standard normal, so at threshold t the level changes at distance |t|,
and with it the class: level 0 answers 0, level 1 answers 1, both for certain."""
BUDGET = Budget.fixed(20, 1000)
LEVELS = (1.0, 2.0)


class Scene:
    tau = 1.0
    sigmas = LEVELS

    def classifier_at(self, sigma: float) -> str:
        return f"level {LEVELS.index(sigma)}"


METHOD = DualSmoothing(Scene(), "median", "point")


def radius(votes: Votes, threshold: float, phase_of: Callable[[Phase], Phase]) -> float:
    """Certified radius at a point, from draws of other phases than asked for, perhaps."""

    def answer(draw: Draw) -> Counts:
        phase = phase_of(draw.phase)
        count = BUDGET.n if phase.name.endswith("ESTIMATE") else BUDGET.n0
        return votes.answer(Draw(draw.model, draw.sigma, phase, 0, count), (threshold,))

    return answered(METHOD.certify(BUDGET, ALPHA), answer).radius


def record(kind: str, count: int, votes: Any) -> Any:
    return SimpleNamespace(phase=f"CLASS_{kind}", count=count, votes=(*map(int, votes), 0))


@pytest.fixture(scope="module")
def drawn() -> list[Votes]:
    """Recorded votes of one image, drawn afresh many times."""
    rng, masses = np.random.default_rng(3), np.diff([0.0, *stats.norm.cdf(EDGES), 1.0])
    sizes = {"GUESS": BUDGET.n0, "ESTIMATE": BUDGET.n}

    def certificate(votes: dict[str, Any]) -> Any:
        return SimpleNamespace(counts=[record(kind, n, votes[kind]) for kind, n in sizes.items()])

    levels = {
        sigma: certificate({kind: np.eye(2)[level] * n for kind, n in sizes.items()})
        for level, sigma in enumerate(LEVELS)
    }
    scores = {kind: rng.multinomial(n, masses, RUNS) for kind, n in sizes.items()}
    return [
        Votes(levels, certificate({kind: scores[kind][run] for kind in sizes}), EDGES)
        for run in range(RUNS)
    ]


@pytest.fixture(scope="module")
def radii(drawn: list[Votes]) -> dict[float, list[float]]:
    """At two points with the same true radius."""
    return {t: [radius(v, t, lambda asked: asked) for v in drawn] for t in (-0.3, 0.3)}


def test_points_chosen_before_the_votes_keep_their_promise(radii: dict[float, list[float]]) -> None:
    for point, found in radii.items():
        assert 0 < sum(r > abs(point) for r in found) <= LIMIT


def test_a_threshold_chosen_after_the_votes_is_caught(radii: dict[float, list[float]]) -> None:
    assert sum(max(pair) > 0.3 for pair in zip(*radii.values(), strict=True)) > LIMIT


def test_one_noise_for_guess_and_bound_is_caught(drawn: list[Votes]) -> None:
    """Level and class are chosen by the votes that bound them."""

    def reused(asked: Phase) -> Phase:
        return Phase[asked.name.replace("GUESS", "ESTIMATE")]

    assert sum(radius(votes, -1e-9, reused) > 1e-9 for votes in drawn) > LIMIT
