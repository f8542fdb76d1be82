"""Files of a report: what they say, and that none is half written."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.report.compare import compare
from dualsmooth.engine.report.drawing import pictures
from dualsmooth.engine.report.plots import certified, plots
from dualsmooth.engine.report.reading import Run, read_runs
from dualsmooth.engine.report.text import text_table
from dualsmooth.engine.report.write import write_report
from dualsmooth.engine.runs.summary import Row, share_interval, summarize
from dualsmooth.engine.terminal import progress
from tests.engine.terminal.test_progress import Terminal

Figure = pytest.importorskip("matplotlib.figure", reason="needs the extra report").Figure

CONFIGURATION = {
    "n0": 100, "n": 10_000, "budget": "fixed", "alpha": 0.001, "seed": 0, "precision": "fp32",
    "data": "digits", "images": 3, "options": {"method": "dual"},
}  # fmt: skip


def row(i: int, radius: float, *, correct: bool = True, limit: str = "classifier") -> Row:
    return Row(radius, correct, radius == 0.0, 10_100, image_id=i, label=i % 3, predicted=i % 3,
               sigma=0.25 + i % 2 / 4, limit=limit, selector_radius=0.4,
               classifier_radius=radius)  # fmt: skip


FIRST = Run("dual(a)", Path("dual"), [row(i, i / 10) for i in range(9)], CONFIGURATION)
SECOND = Run("fixed(b)", Path("t.tsv"), [row(i, 0.35, correct=i < 4) for i in range(9)])


def test_every_plot_is_written_with_its_conditions(tmp_path: Path) -> None:
    runs = [FIRST, SECOND]
    names = write_report(runs, [summarize(r.name, r.rows) for r in runs], tmp_path / "out")
    assert names[0] == "summary.md"
    stems = {"curves", "radii", "sigmas", "limits"}
    assert set(names) == {"summary.md"} | {"curves.pdf"} | {
        f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")
    }
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names)
    heads = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for name in names[1:]:
        assert (tmp_path / "out" / name).read_bytes().startswith(heads[name[-3:]])
    text = (tmp_path / "out" / "summary.md").read_text()
    for said in ("n = 10,000", "alpha = 0.001", "9 images", "95 % Clopper-Pearson", "ACR",
                 "votes and alpha not recorded in the file"):  # fmt: skip
        assert said in text
    assert "| 0.25 | 1 | 5 | 3 | 0 |" in text  # images 3 to 8 against 0 to 3


def test_a_terminal_is_told_that_plots_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown(True):
        write_report([FIRST], [summarize("a", FIRST.rows)], tmp_path / "out")
    assert "drawing the plots .." in cast(Terminal, sys.stderr).getvalue()


def test_equal_plots_have_equal_bytes() -> None:
    curves, kinds = plots([FIRST])[0], ("png", "pdf", "svg")
    assert pictures(curves, kinds) == pictures(curves, kinds)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("radii", ("Certified radii", "abstained", "dual(a)")),
        ("limits", ("What bounded", "classifier", "dual(a)")),
        ("draws", ("Votes", "dual", "100")),
    ],
)
def test_legends_stand_between_title_and_axes(name: str, words: tuple[str, ...]) -> None:
    rows = [*FIRST.rows, *(replace(row, draws=row.draws + 99) for row in FIRST.rows)]
    plot = next(plot for plot in plots([replace(FIRST, rows=rows)]) if plot.name == name)
    text = pictures(plot, ("svg",))["svg"].decode()
    said = [f"<!-- {re.escape(word)}.*?translate\\([0-9.]+ ([0-9.]+)" for word in words]
    where = [re.search(pattern, text, re.DOTALL) for pattern in said]
    title, legend, first = (float(found[1]) for found in where if found)
    assert title + 8 < legend < first - 4


def test_a_run_without_images_writes_tables_only(tmp_path: Path) -> None:
    empty = Run("fixed(c)", Path("c"), [], CONFIGURATION)
    assert write_report([empty], [summarize("fixed(c)", [])], tmp_path) == ["summary.md"]


@pytest.mark.parametrize("at_least", [False, True])
def test_curves_count_as_the_table_does(at_least: bool) -> None:
    rows = [*FIRST.rows, Row(0.3, True, False, exceeds_radius=True), Row(0.5, False, False)]
    grid = [0.0, 0.1, 0.3, 0.35, 0.5, 0.8, 0.9]
    table = summarize("", rows, grid, at_least=at_least).certified
    assert certified(rows, np.array(grid), at_least).tolist() == list(table.values())


def test_intervals_are_clopper_and_pearsons() -> None:
    """Exact values: 0 of n leaves 1 - 0.025^(1/n) above; 50 of 100 as in every textbook."""
    assert share_interval(0, 10) == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))
    assert share_interval(50, 100) == pytest.approx((0.39832, 0.60168), abs=1e-5)
    assert share_interval(0, 0) == (0.0, 1.0)


def test_ids_of_different_data_are_not_compared() -> None:
    other = Run("x", Path("x"), [Row(0.3, True, False, image_id=0, label=7)])
    assert compare(FIRST, other, (0.0,)) == []
    assert compare(FIRST, Run("y", Path("y"), [row(40, 0.1)]), (0.0,)) == []


def test_long_names_and_many_radii_stay_within_80_columns() -> None:
    name = "dual(plurality, point, published split)"
    text = text_table([summarize(name, FIRST.rows, [r / 8 for r in range(17)])])
    assert max(map(len, text.splitlines())) <= 80
    assert name in text
    assert text.count("ACR") == 4


def test_captions_state_images_votes_alpha_and_intervals() -> None:
    curves = plots([FIRST])[0]
    for said in ("9 images", "n = 10,000", "alpha = 0.001", "95%", "strictly above"):
        assert said in curves.said
    assert "at or above" in plots([FIRST], at_least=True)[0].caption


def test_histograms_share_one_axis_and_limits_add_up_to_every_image() -> None:
    rows = [replace(row, exceeds_radius=row.radius > 0.1) for row in FIRST.rows]
    decided = Run("decided", Path("d"), rows, CONFIGURATION | {"radii": [0.3, 0.5]})
    drawn = {plot.name: plot for plot in plots([FIRST, SECOND, decided])}
    panels, limits = Figure(), Figure()
    drawn["radii"].draw(panels)
    drawn["limits"].draw(limits)
    assert len({axes.get_xlim() for axes in panels.axes}) == 1
    labels = [bool(axes.xaxis.get_tick_params()["labelbottom"]) for axes in panels.axes]
    assert labels == [False, False, True]
    parts = {bars.get_label().partition(":")[0]: [bar.get_width() for bar in bars]
             for bars in limits.axes[0].containers}  # fmt: skip
    assert np.sum([*parts.values()], axis=0) == pytest.approx([100, 100, 100])
    assert parts["asked for no larger radius"] == pytest.approx([0, 0, 400 / 9])
    assert parts["the next larger radius asked for was not shown"] == pytest.approx([0, 0, 300 / 9])
    assert parts["abstained"] == pytest.approx([100 / 9, 0, 100 / 9])


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.tsv").write_text("predict\tradius\tcorrect\n1\t0.2\t1\n")
    names = [run.name for run in read_runs([tmp_path / f / "log.tsv" for f in ("a", "b")])]
    assert names == ["log (a)", "log (b)"]


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ArgumentError, match=r"python -m pip install 'matplotlib>=\S+ 'jinja2>="):
        write_report([FIRST], [summarize("", FIRST.rows)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    empty = Run("fixed(c)", Path("c"), [], CONFIGURATION)
    with pytest.raises(FileError, match="file/out: must be writable"):
        write_report([empty], [summarize("", [])], tmp_path / "file" / "out")
