"""Tables of other projects: what they vary, and the figures they published."""

from pathlib import Path

import pytest

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.report.cohen import read_table
from dualsmooth.engine.runs.summary import summarize

HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
LOGS = Path(__file__).parents[4] / "shared/logs"

PUBLISHED = {
    # Cohen et al. (2019), analysis/markdown/vary_noise_cifar10 and vary_noise_imagenet
    "cohen2019/cifar10_resnet110_sigma_0.25.tsv": {
        0.25: "0.60", 0.5: "0.43", 0.75: "0.27", 1.0: "0.00", 1.25: "0.00", 1.5: "0.00",
    },
    "cohen2019/cifar10_resnet110_sigma_0.50.tsv": {
        0.25: "0.55", 0.5: "0.41", 0.75: "0.32", 1.0: "0.23", 1.25: "0.15", 1.5: "0.09",
    },
    "cohen2019/imagenet_resnet50_sigma_0.50.tsv": {
        0.5: "0.46", 1.0: "0.37", 1.5: "0.29", 2.0: "0.00", 2.5: "0.00", 3.0: "0.00",
    },
}  # fmt: skip


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "log.tsv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "0\t3\t3\t0.378\t1\t15.4\n20\t7\t-1\t0.0\t0\t15.6\n",
        HEAD + "0\t3\t3\t0.378\t1\t0:02:32.717239\n20\t7\t-1\t0.0\t0\t1 day, 0:00:01\n",
        HEAD + "0\t3\t3\t0.378\t1\t15.4\n20\t7\t-1\t0.0\t0\t15.6",
        "\ufeff" + HEAD.replace("\n", "\r\n") + "0\t3\t3\t0.378\t1\t1\r\n20\t7\t-1\t0\t0\t1\r\n",
        "radius\tnote\tcorrect\tpredict\tidx\tlabel\n0.378\ta\tTrue\t3.0\t0\t3\n"
        "0.0\tb\tFalse\t-1\t20\t7\n\n",
        HEAD.upper() + "0\t3\t3\t.378\t1\t1\n\n20\t7\t-1\t0\t0\t1\n\n\n",
    ],
    ids=["seconds", "h:mm:ss", "no last line break", "mark and CRLF", "other columns", "capitals"],
)
def test_variants_read_alike(tmp_path: Path, text: str) -> None:
    rows, warnings = read_table(table(tmp_path, text))
    assert warnings == []
    assert [(r.image_id, r.label, r.predicted, r.radius, r.correct, r.abstained) for r in rows] == [
        (0, 3, 3, 0.378, True, False), (20, 7, None, 0.0, False, True),
    ]  # fmt: skip


def test_a_torn_last_line_is_left_out_with_a_warning(tmp_path: Path) -> None:
    rows, warnings = read_table(table(tmp_path, HEAD + "0\t3\t3\t0.378\t1\t15\n1\t3\t3\t0.4"))
    assert len(rows) == 1
    assert len(warnings) == 1
    assert "line 3 is cut short and was left out" in warnings[0]


@pytest.mark.parametrize(
    "line",
    [
        "1\t3\t3\tnan\t1\t5", "1\t3\t3\tinf\t1\t5", "1\t3\t3\t1e400\t1\t5", "1\t3\t3.5\t0.1\t0\t5",
        "1\t3\t3\t0.1\t2\t5", "1\t3", "x\t3\t3\t0.1\t1\t5", "1\t3\t3\t1_0.5\t1\t5",
        "1\t3\t3\t\uff11\t1\t5", "1\t3\t3\t0x1\t1\t5", "1\t3\t3\t 1\t1\t5", "1\t\u0663\t3\t1\t1\t5",
        "1\t3\t-1\t\t0\t5", "1\t3\t-1\tnone\t0\t5", "1\t3\t3\t0.1\tyes\t5", "-1\t3\t3\t0.1\t1\t5",
        "1e300\t3\t3\t0.1\t1\t5", "1\t1e30\t3\t0.1\t0\t5", "1\t3\t-2\t0.1\t0\t5", "1 3 3 0.1 1 5",
        "1\t3\t3\t0.1\t1\t5\t6", "1\t3\tnan\t0.1\t0\t5",
        "1\t7\t2\t0.3\t1\t5", "1\t3\t3\t0.3\t0\t5", "1\t3\t-1\t0\t1\t5",
    ],
)  # fmt: skip
def test_bad_lines_are_named_and_not_skipped(tmp_path: Path, line: str) -> None:
    """Only a last line without a line break may be torn; a short line anywhere else is damage."""
    text = HEAD + line + "\n0\t3\t3\t0.378\t1\t15.4\n"
    with pytest.raises(FileError, match=r"log\.tsv: line 2 must be valid"):
        read_table(table(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("", "no column predict"), ("\n\n", "no column predict"),
        (HEAD.replace("\t", " "), "no column predict"),
        (HEAD.replace("\t", ","), "no column predict"),
        (HEAD.replace("correct", "right"), "no column correct"),
        (HEAD.replace("time", "radius"), "two columns radius"),
        (HEAD.replace("time", "Label"), "two columns label"),
    ],
)  # fmt: skip
def test_other_heads_are_one_line(tmp_path: Path, text: str, received: str) -> None:
    with pytest.raises(FileError, match=f"log.tsv: must be a tab-separated .*{received}"):
        read_table(table(tmp_path, text))


@pytest.mark.parametrize("last", ["radius", "correct", "predict", "label", "idx"])
def test_a_last_field_that_may_be_cut_is_left_out(tmp_path: Path, last: str) -> None:
    """0.91 may be the start of 0.91e-3, and 1 the start of 17: only a line break says it is not."""
    names = [name for name in ("idx", "label", "predict", "radius", "correct") if name != last]
    fields = {"idx": "{}", "label": "3", "predict": "3", "radius": "0.91", "correct": "1"}
    row = "\t".join(fields[name] for name in (*names, last))
    text = "\t".join((*names, last)) + "\n" + row.format(1) + "\n" + row.format(2)
    rows, (warning,) = read_table(table(tmp_path, text))
    assert [r.image_id for r in rows] == [1]
    assert "line 3 is cut short" in warning
    assert len(read_table(table(tmp_path, text + "\n"))[0]) == 2


@pytest.mark.parametrize("radius", ["nan", "-inf", "Infinity", "-0.2", "1e400", "0.7", "NaN"])
def test_abstentions_may_hold_any_radius(tmp_path: Path, radius: str) -> None:
    (row,), warnings = read_table(table(tmp_path, HEAD + f"0\t3\t-1\t{radius}\t0\t1\n"))
    assert (row.radius, row.abstained, row.correct, warnings) == (0.0, True, False, [])


@pytest.mark.parametrize("radius", ["-0.1", "-1e-9", "-2."])
def test_negative_radii_of_classes_count_as_zero_with_one_warning(
    tmp_path: Path, radius: str
) -> None:
    text = HEAD + "".join(f"{i}\t3\t3\t{radius}\t1\t1\n" for i in range(3)) + "7\t3\t3\t0.6\t1\t1\n"
    rows, (warning,) = read_table(table(tmp_path, text))
    assert "3 certified rows have a negative radius, counted as 0" in warning
    summary = summarize("", rows, (0.0,))
    assert summary.certified[0.0] == 1
    assert summary.acr == pytest.approx(0.15)


@pytest.mark.parametrize("second", ["3\t3\t0.9\t1\t2", "3.0\t3\t0.90\tTrue\t"])
def test_a_repeated_row_counts_once(tmp_path: Path, second: str) -> None:
    rows, (warning,) = read_table(table(tmp_path, HEAD + f"5\t3\t3\t0.9\t1\t1\n5\t{second}\n"))
    assert len(rows) == 1
    assert "1 rows stand twice" in warning


@pytest.mark.parametrize(
    "second", ["3\t3\t0.6\t1\t1", "3\t-1\t0\t0\t1", "4\t3\t0.9\t0\t1", "4\t4\t0.9\t1\t1"]
)
def test_two_rows_of_one_image_that_differ_are_refused(tmp_path: Path, second: str) -> None:
    text = HEAD + f"0\t3\t3\t0.9\t1\t1\n9\t3\t3\t0.9\t1\t1\n0\t{second}\n"
    with pytest.raises(FileError, match="line 4 must be valid; received another row for idx 0"):
        read_table(table(tmp_path, text))


def test_an_abstention_marked_correct_does_not_count(tmp_path: Path) -> None:
    rows, _ = read_table(table(tmp_path, HEAD + "0\t-1\t-1\t0.4\t1\t1\n"))
    assert not rows[0].correct
    assert rows[0].radius == 0.0


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_reproduced_to_the_digit(name: str) -> None:
    """Their analysis counts radii equal to r; ours does not unless asked, and then agrees."""
    path = LOGS / name
    if not path.exists():
        pytest.skip("published logs are not beside the repository")
    rows, warnings = read_table(path)
    summary = summarize(name, rows, tuple(PUBLISHED[name]), at_least=True)
    assert warnings == []
    assert {r: f"{summary.accuracy(r):.2f}" for r in summary.certified} == PUBLISHED[name]


def test_the_two_ways_of_counting_differ_where_radii_are_printed_with_three_digits() -> None:
    path = LOGS / "cohen2019/imagenet_resnet50_sigma_0.50.tsv"
    if not path.exists():
        pytest.skip("published logs are not beside the repository")
    rows, _ = read_table(path)
    assert summarize("", rows, (1.5,)).certified == {1.5: 142}
    assert summarize("", rows, (1.5,), at_least=True).certified == {1.5: 143}


@pytest.mark.parametrize(
    ("name", "counts", "acr"),
    [
        ("gaussian_sigma_0.25", (8043, 6668, 5044, 3274), "0.4867"),
        ("gaussian_sigma_0.5", (6875, 5814, 4612, 3448), "0.5706"),
        ("gaussian_sigma_1.0", (5094, 4347, 3651, 3001), "0.5427"),
        ("consistency_sigma_0.25", (7578, 6729, 5749, 4602), "0.5465"),
        ("consistency_sigma_0.5", (6413, 5763, 5029, 4293), "0.7157"),
        ("consistency_sigma_1.0", (4571, 4199, 3780, 3373), "0.7567"),
    ],
)
def test_ten_thousand_images_counted_by_awk(name: str, counts: tuple[int, ...], acr: str) -> None:
    """awk -F'\\t' '$5 == 1 && $4 > r' FILE | wc -l, and the mean of $4 * $5."""
    path = LOGS / f"acr2025/cifar10/{name}.tsv"
    if not path.exists():
        pytest.skip("published logs are not beside the repository")
    rows, _ = read_table(path)
    summary = summarize(name, rows, (0.0, 0.25, 0.5, 0.75))
    assert len(rows) == 10_000
    assert tuple(summary.certified.values()) == counts
    assert f"{summary.acr:.4f}" == acr
