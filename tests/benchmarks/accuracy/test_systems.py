from dataclasses import replace
from pathlib import Path

import pytest

from dualsmooth.benchmarks.accuracy.systems import compare, drawn_for, measure, table
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.frontier import ORACLE, oracle
from dualsmooth.engine.runs.summary import Row, summarize
from dualsmooth.engine.settings import Settings


def row(radius: float, correct: bool = True) -> Row:
    return Row(radius, correct and radius > 0, radius == 0, 0)


def test_the_oracle_takes_the_largest_correct_radius() -> None:
    small = [row(0.3), row(0.2), row(0.0), row(0.4, correct=False)]
    large = [row(0.9, correct=False), row(0.7), row(0.0), row(0.6, correct=False)]
    assert [r.radius for r in oracle([small, large])] == [0.3, 0.7, 0.0, 0.0]
    assert [r.correct for r in oracle([small, large])] == [True, True, False, False]


def test_shares_and_points() -> None:
    rows = {
        "fixed 0.25": [row(0.3), row(0.3), row(0.3), row(0.3)],
        "fixed 1": [row(0.0), row(0.0), row(0.6), row(0.8)],
        "dual": [row(0.3), row(0.0), row(0.6), row(0.4)],
    }
    rows[ORACLE] = oracle([rows["fixed 0.25"], rows["fixed 1"]])
    radii = tuple(r / 4 for r in range(13))
    compared = compare({name: summarize(name, value, radii) for name, value in rows.items()})
    dual = compared["dual"]
    assert dual["share_of_oracle"] == {"0": 0.75, "0.25": 0.75, "0.5": 0.5, "0.75": 0.0}
    assert dual["smallest_share_of_oracle"] == 0.0
    # fixed 1 has the larger ACR, 0.35 to 0.3
    assert dual["points_above_best_fixed"] == {"0": 25.0, "0.25": 25.0, "0.5": -25.0, "0.75": -25.0}
    assert dual["acr_share_of_oracle"] == pytest.approx(1.3 / 2.0)


def test_votes_are_read_from_runs_of_the_same_bundle_only(tmp_path: Path) -> None:
    """A bundle whose name goes on after the first one's has other networks: a refused run."""
    bundle = load_bundle("digits-dual")
    own = [tmp_path / f"digits-dual-{kind}" for kind in ("fixed-0.5", "routed-0", "routed-1")]
    for folder in (*own, tmp_path / "digits-dual-small-fixed-0.5", tmp_path / "digits-dual.log"):
        folder.mkdir()
    assert drawn_for(bundle, tmp_path, own[1]) == [own[0], own[2]]


def test_every_system_of_the_bundled_model(tmp_path: Path) -> None:
    bundle, data = load_bundle("digits-dual"), load_images("digits")
    settings = Settings(Budget.fixed(20, 100), precision="fp32")
    other = replace(bundle, name="again")
    ids = [0, 100, 200]
    summaries, lost = measure(bundle, [other], data, ids, settings, tmp_path)
    again = measure(bundle, [other], data, ids, settings, tmp_path)  # resumes, draws nothing
    assert (summaries, lost) == again
    for name, parts in lost.items():
        gap = summaries[ORACLE].acr - summaries[name].acr
        assert parts["level"] + parts["selector"] == pytest.approx(gap)
        assert min(parts.values()) >= 0.0
    routed = ["dual (median, interval{})", "dual (plurality{})", "cascade (p0 0.5{})"]
    assert list(summaries) == [
        *(f"fixed {sigma:g}" for sigma in bundle.sigmas),
        ORACLE,
        *(name.format("") for name in routed),
        *(name.format(", again") for name in routed),
    ]
    for name, summary in summaries.items():
        assert summary.acr <= summaries[ORACLE].acr, name
    compared = compare(summaries)
    assert compared[ORACLE]["smallest_share_of_oracle"] == 1.0
    assert all(len(line) <= 140 for line in table(summaries, compared).splitlines())
