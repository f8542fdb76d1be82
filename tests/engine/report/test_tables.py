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
from dualsmooth.engine.report.reading import read_runs
from dualsmooth.engine.report.tables import csv_table, latex_table
from dualsmooth.engine.report.text import text_table
from dualsmooth.engine.runs.summary import Row, summarize

ROWS = [Row(0.3, True, False), Row(0.7, True, False), Row(0.2, False, False), Row(0, False, True)]
ONE = summarize("fixed(0.25)", ROWS, (0.0, 0.5))
TWO = summarize("50%_of #&", ROWS[1:], (0.0, 0.5))


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
    assert lines[4] == r"fixed(0.25) & \textbf{50.0} & 25.0 & \textbf{0.250} \\"
    assert lines[5] == r"50\%\_of \#\& & 33.3 & \textbf{33.3} & 0.233 \\"
    assert r"\textbf" not in latex_table([ONE])


@pytest.mark.parametrize("width", [40, 80, 81, 120, 210])
def test_a_table_is_no_wider_than_the_terminal(width: int) -> None:
    name = "dual(median, interval, a long story about what was selected) of the year 2026"
    summary = summarize(name, ROWS, [r / 8 for r in range(17)])
    table = text_table([summary, replace(summary, name="b")], width)
    body = table[: table.index("certified accuracy")]
    assert max(map(len, body.splitlines())) <= width
    assert (name in body) == (width == 210)


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
