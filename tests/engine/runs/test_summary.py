import pytest

from dualsmooth.engine.report.compare import against_best_fixed
from dualsmooth.engine.report.text import UNLABELLED, text_table
from dualsmooth.engine.runs.summary import Row, summarize

ROWS = [
    Row(0.5, True, False, 200),
    Row(0.25, True, False, 100),
    Row(0.9, False, False, 100),
    Row(0.0, False, True, 100),
]


def test_radii_count_strictly_above_and_abstentions_stay_in_the_denominator() -> None:
    summary = summarize("fixed(0.25)", ROWS, (0.0, 0.25, 0.5))
    assert summary.certified == {0.0: 2, 0.25: 1, 0.5: 0}
    assert summary.accuracy(0.0) == 0.5
    assert (summary.abstained, summary.draws) == (1, 125.0)
    assert summary.acr == pytest.approx(0.75 / 4)


def test_a_decided_radius_counts_at_itself() -> None:
    """The test showed that the true radius is above it; other radii are only lower bounds."""
    decided = [Row(0.5, True, False, 1, True), Row(0.5, False, False, 1, True)]
    abstained = [Row(0.0, False, True, 1, True)]
    summary = summarize("fixed(0.25)", decided + abstained, (0.0, 0.25, 0.5, 0.75))
    assert summary.certified == {0.0: 1, 0.25: 1, 0.5: 1, 0.75: 0}


def test_table_says_where_dual_loses() -> None:
    better = [Row(0.6, True, False, 1)] * 4
    both = [summarize("dual(median, interval)", ROWS), summarize("fixed(0.5)", better)]
    text = text_table(both, gaps=against_best_fixed(both))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    gaps = next(line for line in lines[5:] if line.startswith("dual(median, interval)"))
    assert gaps.split()[2:5] == ["-50.0", "-75.0", "-100.0"]


def test_radii_of_a_grid_are_not_rounded() -> None:
    head = text_table([summarize("fixed(0.25)", ROWS, (0.0, 0.125, 1.5))]).splitlines()[0]
    assert head.split() == ["radius", ">", "0.00", "0.125", "1.50", "ACR"]


def test_an_empty_run_is_reported_and_not_a_crash() -> None:
    assert "0 images" in text_table([summarize("fixed(0.5)", [])])


def test_images_without_labels_are_told_from_wrong_answers() -> None:
    unknown, wrong = Row(0.4, False, False, 1), Row(0.4, False, False, 1, label=3)
    assert UNLABELLED in text_table([summarize("fixed(0.5)", [unknown] * 2)])
    for rows in ([unknown, wrong], [Row(0.4, True, False)]):
        assert UNLABELLED not in text_table([summarize("fixed(0.5)", rows)])
