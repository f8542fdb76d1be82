"""Suites of what certifying costs: points, gates and tables."""

import dataclasses
from pathlib import Path

import pytest

from dualsmooth.benchmarks.speed import cpu, dual_cost, occupancy, scaling, start, suites
from dualsmooth.benchmarks.speed.scaling import BASE, Point
from dualsmooth.benchmarks.speed.suites import run_suite
from dualsmooth.benchmarks.speed.tables import draw_picture, exponents, scaling_table
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings

SMALL = Point(votes=300, images=3, levels=2, classes=4, side=8)


def test_every_axis_meets_the_base_and_no_point_is_measured_twice() -> None:
    points = scaling.points()
    assert len(set(points)) == len(points) == sum(map(len, scaling.AXES.values())) - 4
    assert all(getattr(BASE, axis) in values for axis, values in scaling.AXES.items())


@pytest.mark.parametrize("levels", [1, 3])
def test_a_point_draws_what_it_says(levels: int) -> None:
    point = dataclasses.replace(SMALL, levels=levels)
    figures = scaling.measure(point)
    assert figures["draws"] >= point.images * point.votes
    assert figures["processor_seconds"] > 0.0
    assert figures["memory_mb"] > figures["memory_over_imports_mb"] >= 0.0


def test_the_gate_notices_other_votes() -> None:
    with Session.open(SMALL.method(), Settings(Budget.fixed(100, SMALL.votes))) as session:
        found = list(session.certify(SMALL.pixels()))
        scaling.check(session, SMALL, found)
        first = min(found, key=lambda c: c.image_id)
        found.remove(first)
        changed = dataclasses.replace(first, counts=first.counts[::-1])
        with pytest.raises(AssertionError):
            scaling.check(session, SMALL, [*found, changed])


def test_tables_have_a_line_per_point_and_the_power_of_growth(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures = {"draws": 10.0, "seconds": 1.0, "occupancy": 0.5, "memory_mb": 3.0}
    points = [
        figures
        | {"votes": n, "processor_seconds": 0.1 * n**2}
        | {"processor_seconds_of_rounds": [0.05 * n, 0.1 * n**2, 0.2 * n**3]}
        for n in (10, 20, 40)
    ]
    assert exponents("votes", points) == pytest.approx([1.0, 2.0, 3.0])
    lines = scaling_table({"votes": points}).splitlines()
    assert len(lines) == 2 + 3 + 1
    assert "| votes | 20 | 10 | 1.00 | 40.00 (1.00 to 1600.00) |" in lines[3]
    assert "its power | 2.00 (1.00 to 3.00) |" in lines[5]
    assert {line.count("|") for line in lines} == {9}
    draw_picture({"votes": points, "images": [p | {"images": p["votes"]} for p in points]},
                 tmp_path / "picture.png")  # fmt: skip
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_occupancy_counts_what_certificates_list() -> None:
    method = DualSmoothing(load_bundle("digits-dual"))
    row = occupancy.measure(method, Budget.decide((0.25,), n=1000), 50)
    assert row["rows run"] % row["batch"] == 0
    assert row["share"] == row["rows used"] / row["rows run"] > 0.5


def test_contestants_certify_the_same_images_and_their_radii_are_compared() -> None:
    found: dict[str, dict[str, dual_cost.Contestant]] = {}
    for kind, budget in dual_cost.budgets(4000, 0.25).items():
        if kind == "decide":
            continue
        with Session.open(DualSmoothing(load_bundle("digits-dual")), Settings(budget)) as session:
            found[kind] = {"dual": dual_cost.Contestant(session, 3)}
            for _ in range(2):
                found[kind]["dual"]()
    dual_cost.check(found["precise"])
    certificates = {kind: {"dual": each["dual"].found} for kind, each in found.items()}
    assert [c.image_id for c in certificates["fixed"]["dual"]] == list(range(6))
    assert 0.0 < dual_cost.radii_kept(certificates)["dual"] <= 1.0
    both = {"dual": found["precise"]["dual"].found, "fixed": found["fixed"]["dual"].found}
    figures = dual_cost.compared(both, {"dual": [2.0, 3.0], "fixed": [1.0, 1.0]}, 0.25)
    assert figures["time ratio"]["median"] == 2.5
    assert figures["votes ratio"] < 1.0


def test_dual_is_timed_at_an_operating_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Bundle] = []
    monkeypatch.setattr(dual_cost, "run", lambda *given: timed.append(given[4]))
    run_suite("dual", 1, tmp_path, bundle="fashion-dual", prefer="large")
    assert [bundle.preference for bundle in timed] == ["large"]
    with pytest.raises(ArgumentError, match=r"^prefer must be small, balanced, large or"):
        run_suite("dual", 1, tmp_path, bundle="fashion-dual", prefer="huge")


@pytest.mark.parametrize("suite", suites.ROUNDS)
def test_a_suite_says_what_it_does_before_it_does_it(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = list[str]()
    for module in (cpu, dual_cost, occupancy, scaling, start):
        monkeypatch.setattr(module, "run", lambda *_: said.append(capsys.readouterr().out))
    run_suite(suite, None, tmp_path)
    assert [text.startswith(f"{suite}: {suites.ABOUT[suite]}; files into ") for text in said] == [
        True
    ]


@pytest.mark.parametrize(("suite", "rounds", "name"), [("gpu", 1, "suite"), ("dual", 0, "rounds")])
def test_unknown_suites_and_no_rounds_are_refused(
    suite: str, rounds: int, name: str, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be"):
        run_suite(suite, rounds, tmp_path)
    assert not list(tmp_path.iterdir())
