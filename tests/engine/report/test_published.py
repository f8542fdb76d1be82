"""Published results beside runs: the figures their authors printed, names, warnings."""

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dualsmooth as ds
from dualsmooth.engine.cli.app import app
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.report.cohen import read_table
from dualsmooth.engine.report.markdown import markdown
from dualsmooth.engine.report.plots import plots
from dualsmooth.engine.report.published import published
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import summarize

LOGS = Path(__file__).parents[4] / "shared/logs"
BESIDE = {
    "cohen2019-cifar10-0.25": "cohen2019/cifar10_resnet110_sigma_0.25.tsv",
    "cohen2019-cifar10-0.5": "cohen2019/cifar10_resnet110_sigma_0.50.tsv",
    "cohen2019-imagenet-0.5": "cohen2019/imagenet_resnet50_sigma_0.50.tsv",
    "acr2025-cifar10-gaussian-1": "acr2025/cifar10/gaussian_sigma_1.0.tsv",
    "acr2025-cifar10-consistency-0.25": "acr2025/cifar10/consistency_sigma_0.25.tsv",
}


def beside(data: str, classes: int) -> Run:
    about = {"data": data, "bundle_manifest": {"num_classes": classes}}
    return Run("mine", Path("mine"), [], about)


CIFAR, IMAGENET, DIGITS = beside("cifar10:x", 10), beside("folder:x", 1000), beside("digits", 10)


@pytest.mark.parametrize(
    ("name", "radii", "printed"),
    [  # analysis/markdown of Cohen et al.
        ("cifar10-0.12", (0.25, 0.5), "0.59 0.00"),
        ("cifar10-0.25", (0.25, 0.5, 0.75, 1.0), "0.60 0.43 0.27 0.00"),
        ("cifar10-0.5", (0.25, 0.5, 0.75, 1.0, 1.25, 1.5), "0.55 0.41 0.32 0.23 0.15 0.09"),
        ("cifar10-1", (0.25, 0.5, 0.75, 1.0, 1.25, 1.5), "0.39 0.34 0.28 0.22 0.17 0.14"),
        ("imagenet-0.25", (0.0, 0.5, 1.0), "0.67 0.49 0.00"),
        ("imagenet-0.5", (0.5, 1.0, 1.5, 2.0), "0.46 0.37 0.29 0.00"),
        ("imagenet-1", (0.5, 1.0, 1.5, 2.0, 2.5, 3.0), "0.38 0.33 0.26 0.19 0.15 0.12"),
    ],
)
def test_printed_figures_come_out_to_the_digit(
    name: str, radii: tuple[float, ...], printed: str
) -> None:
    [run] = published(f"cohen2019-{name}", [])
    summary = summarize(run.name, run.rows, radii, at_least=True)
    assert " ".join(f"{summary.accuracy(r):.2f}" for r in radii) == printed


@pytest.mark.parametrize("name", BESIDE)
def test_they_are_the_logs_counted(name: str) -> None:
    if not (LOGS / BESIDE[name]).exists():
        pytest.skip("published logs are not beside the repository")
    rows, _ = read_table(LOGS / BESIDE[name])
    [run] = published(name, [])
    of_log = Counter((r.radius if r.correct else 0.0, r.correct, r.abstained) for r in rows)
    assert Counter((r.radius, r.correct, r.abstained) for r in run.rows) == of_log


@pytest.mark.parametrize(
    ("name", "run", "found", "warned"),
    [
        ("cohen2019", CIFAR, "cohen2019-cifar10", 0),
        ("cohen2019", IMAGENET, "cohen2019-imagenet", 0),
        ("acr2025", CIFAR, "acr2025-cifar10", 0),
        ("cohen2019-imagenet", CIFAR, "cohen2019-imagenet", 1),
        ("cohen2019", DIGITS, "cohen2019", 1),
        ("cohen2019", Run("table", Path("t"), []), "cohen2019", 0),
    ],
)
def test_the_data_of_the_runs_says_which(name: str, run: Run, found: str, warned: int) -> None:
    results = published(name, [run])
    assert {r.name for r in results} == {r.name for r in published(found, [])}
    assert sum(len(r.warnings) for r in results) == warned


@pytest.mark.parametrize(
    ("name", "meant"),
    [("cohen2018", "cohen2019"), ("cohen2019-cifar", "cohen2019-cifar10"), ("", ""), ("cohen", "")],
)
def test_an_unknown_name_is_one_line_with_what_was_meant(name: str, meant: str) -> None:
    with pytest.raises(ArgumentError, match="against must be cohen2019 or acr2025") as error:
        published(name, [])
    assert f"did you mean {meant}?" in str(error.value) or not meant
    assert "\n" not in str(error.value)


def test_the_command_puts_them_beside_a_run(tmp_path: Path) -> None:
    digits = ds.load_images("digits").images[:2]
    ds.certify("digits-dual", digits, sigma=0.25, n=50, progress=False).save(tmp_path / "run")
    command = ["report", str(tmp_path / "run"), "--against", "cohen2019-cifar10", "--json"]
    done = CliRunner().invoke(app, command)
    rows = json.loads(done.stdout)
    assert [row["images"] for row in rows] == [2, 500, 500, 500, 500]
    assert "cohen2019-cifar10 is about other images than fixed" in done.stderr


def test_a_report_says_where_they_come_from() -> None:
    runs = published("cohen2019-cifar10-1", [])
    text = markdown(runs, [summarize(run.name, run.rows, (0.5,)) for run in runs], [])
    assert "as published by Cohen et al. (2019), n0 = 100" in text
    assert "alpha not recorded" in text
    assert [plot.name for plot in plots(runs)] == ["curves"]  # no radii of images that were wrong
