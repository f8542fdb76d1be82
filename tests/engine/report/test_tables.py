"""Tables for other programs, runs by the folder, labels, and the width of the terminal."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dualsmooth as ds
from dualsmooth.engine.cli.app import app
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.report.compare import against_best_fixed, cells, leaders, signed
from dualsmooth.engine.report.reading import Run, read_runs
from dualsmooth.engine.report.tables import csv_table, latex_table
from dualsmooth.engine.report.text import text_table
from dualsmooth.engine.runs.summary import Row, summarize

ROWS = [Row(0.3, True, False), Row(0.7, True, False), Row(0.2, False, False), Row(0, False, True)]
ONE = summarize("fixed(0.25)", ROWS, (0.0, 0.5))
TWO = summarize("50%_of #&", [*ROWS[1:], Row(0.6, True, False)], (0.0, 0.5))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    digits = ds.load_images("digits").images[:2]
    for name, sigma in (("a", 0.25), ("deep/b", 0.5), ("deep/c", 0.5)):
        found = ds.certify("digits-dual", digits, sigma=sigma, n=50, progress=False)
        found.save(place / name)
    return place


def test_csv_has_every_share_exactly() -> None:
    first, second = csv.DictReader(io.StringIO(csv_table([ONE, TWO])))
    assert [first["run"], second["run"]] == ["fixed(0.25)", "50%_of #&"]
    assert float(first["accuracy_0.5"]) == ONE.accuracy(0.5)
    assert (float(first["low_0"]), float(first["high_0"])) == ONE.interval(0.0)
    assert float(second["acr"]) == TWO.acr
    odd = csv_table([summarize("=1+1", ROWS, (0.0,))])
    assert next(csv.DictReader(io.StringIO(odd)))["run"] == "'=1+1"


def test_latex_is_a_booktabs_table_with_the_best_in_bold() -> None:
    lines = latex_table([ONE, TWO]).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrr}"
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule",
                                                                 r"\bottomrule"]  # fmt: skip
    assert lines[4] == r"fixed(0.25) & 50.0 & 25.0 & 0.250 \\"
    assert lines[5] == r"50\%\_of \#\& & 50.0 & \textbf{50.0} & \textbf{0.325} \\"
    assert r"\textbf" not in latex_table([ONE])


def test_only_the_best_is_marked_and_ties_by_their_counts() -> None:
    """Shares that look alike in a table are no tie; with a part of the images nobody competes."""
    close = [replace(ONE, images=10_000, certified={0.0: k, 0.5: 0}, acr=0.1) for k in (6, 7, 7)]
    assert {cells(s)[0.0] for s in close} == {"0.1"}
    assert leaders(close) == [set(), {0.0}, {0.0}]
    part = replace(ONE, images=3, certified={0.0: 3, 0.5: 3})
    assert leaders([*close, part]) == 4 * [set()]
    assert leaders(close)[0] == leaders([ONE])[0] == set()
    body = text_table(close).splitlines()[2:5]
    assert [line.split()[1] for line in body] == ["0.1", "0.1*", "0.1*"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0"), (-0.0, "0.0"), (-0.04, "0.0"), (-0.06, "-0.1"), (1, "+1.0")]
)
def test_a_difference_of_nothing_has_no_sign(value: float, text: str) -> None:
    assert signed(value) == text


def of(name: str, method: str, radii: list[float], first: int = 0, **more: object) -> Run:
    rows = [Row(r, r > 0, r == 0, image_id=first + i, label=i) for i, r in enumerate(radii)]
    known = {"options": {"method": method}, "data_digest": "d"} | more if method else {}
    return Run(name, Path(name), rows, known)


def test_runs_are_above_or_below_the_best_fixed_sigma_of_the_same_images() -> None:
    runs = [of("low", "fixed", [0.2, 0.2, 0.2, 0.2]), of("high", "fixed", [0.9, 0.0, 0.0, 0.0]),
            of("ours", "dual", [0.9, 0.9, 0.2, 0.0]),
            of("others", "dual", [0.9] * 4, first=1), of("part", "dual", [0.9] * 3),
            of("other pixels", "dual", [0.9] * 4, data_digest="e")]  # fmt: skip
    summaries = [summarize(run.name, run.rows, (0.0, 0.2, 0.5, 1.0)) for run in runs]
    (gap,) = against_best_fixed(summaries, runs)
    assert (gap.name, gap.image) == ("ours", 25.0)
    assert gap.points == {0.0: -25.0, 0.2: 25.0, 0.5: 25.0, 1.0: None}
    assert str(gap) == "above by up to 25.0 points at 0.2, 0.5; below by up to 25.0 points at 0"
    lines = text_table(summaries, gaps=[gap]).splitlines()
    shown = lines[1 + next(i for i, line in enumerate(lines) if line.startswith("above"))]
    assert shown.split() == ["ours", "-25.0", "+25.0", "+25.0", "+0.275"]
    assert against_best_fixed(summaries[2:], runs[2:]) == []
    table = of("fixed, they say", "", [0.1] * 4)
    (gap,) = against_best_fixed(
        [summaries[2], summarize("t", table.rows, (0.0, 0.2, 0.5, 1.0))], [runs[2], table]
    )
    assert str(gap) == "above by up to 50.0 points at 0.2, 0.5; below by up to 25.0 points at 0"


@pytest.mark.parametrize("width", [40, 80, 81, 120, 210])
def test_a_table_is_no_wider_than_the_terminal(width: int) -> None:
    name = "dual(median, interval, a long story about what was selected) of the year 2026"
    summary = summarize(name, ROWS, [r / 8 for r in range(17)])
    table = text_table([summary, replace(summary, name="b")], width)
    body = table[: table.index("certified accuracy")]
    assert max(map(len, body.splitlines())) <= width
    assert (name in body) == (width == 210)


def test_names_are_whole_where_no_table_more_comes_of_it() -> None:
    name = "dual (plurality), balanced"
    table = text_table([summarize(name, ROWS, [r / 4 for r in range(10)])])
    assert (table.count("-" * 40), table.count(name), table.count("..")) == (2, 3, 0)


def test_a_folder_stands_for_the_runs_in_it(runs: Path, tmp_path: Path) -> None:
    names = [run.name for run in read_runs([runs])]
    assert names == ["fixed(0.25)", "fixed(0.5) (b)", "fixed(0.5) (c)"]
    assert len(read_runs([runs, runs / "a"])) == 3
    with pytest.raises(FileError, match="must be a run folder"):
        read_runs([tmp_path])


def test_labels_name_runs(runs: Path) -> None:
    labels = {runs / "deep/b": "ours", runs / "a": "theirs"}
    names = {run.path.name: run.name for run in read_runs([runs / "deep"], labels)}
    assert names == {"b": "ours", "c": "fixed(0.5)", "a": "theirs"}


def test_the_command(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    run = CliRunner().invoke
    assert run(app, ["report", ".", "--csv"]).output.count("\n") == 4
    assert "ours &" in run(app, ["report", "--label", "ours=a", "--latex"]).output
    for words, rule in (
        (["report", ".", "--csv", "--latex"], "only one of"),
        (["report"], "at least one run"),
        (["report", "--label", "a"], "NAME=RUN"),
    ):
        failed = run(app, words).exception
        assert isinstance(failed, ArgumentError)
        assert rule in str(failed)
