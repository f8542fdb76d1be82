"""An operating point is chosen before a run, recorded with it, and stays."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.operating_point import at_point
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.runs.log import read_log

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _ordered(tmp_path: Path, ordered_bundle: Bundle) -> None:
    """A bundle of this name in the folder where commands run."""
    save_bundle(ordered_bundle, tmp_path / "ordered")


CERTIFY = ("certify", "ordered", "--data", "digits", "--n0", 10, "--n", 50, "--max", 3,
           "--precision", "fp32", "--out", "run")  # fmt: skip


def test_the_point_is_recorded_audited_and_kept(run: Run, ordered_bundle: Bundle) -> None:
    assert run(*CERTIFY, "--prefer", "small")[0] == 0
    told = at_point(ordered_bundle, "small")
    record = json.loads(Path("run/run.json").read_text())["configuration"]
    assert record["method"] == "dual(median, interval, prefer small)"
    assert record["bundle_manifest"]["networks"]["selector"][1]["prefer"] == "small"
    for certificate in read_log(Path("run")):
        assert (certificate.method, certificate.bundle) == (record["method"], told.digest)
    assert run("audit", "run")[0] == 0
    assert run("audit", "run", "--bundle", "ordered", "--replay", 0.9)[0] == 0
    assert run("audit", "run", "--from-run", "--replay", 0.9)[0] == 0
    files = {path: path.read_bytes() for path in Path("run").iterdir()}
    for other in (("--prefer", "large"), ("--prefer", "0.1"), ()):
        code, _, err = run(*CERTIFY, "--resume", *other)
        assert code == 2
        assert "must have the same configuration to resume" in err
        assert "bundle_digest" in err
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == files
    assert run(*CERTIFY, "--resume", "--prefer", "small")[0] == 0


def test_a_point_that_was_not_certified_is_found_out(run: Run) -> None:
    assert run(*CERTIFY, "--prefer", "small")[0] == 0
    path = Path("run/run.json")
    for old, new in (("prefer small", "prefer large"), ('"prefer": "small"', '"prefer": "large"')):
        honest = path.read_text()
        assert old in honest
        path.write_text(honest.replace(old, new))
        assert run("audit", "run")[0] in (1, 2)
        path.write_text(honest)


def test_bad_points_are_one_line(run: Run) -> None:
    code, _, err = run(*CERTIFY, "--prefer", "tiny")
    assert (code, err.count("\n")) == (2, 1)
    assert "prefer must be small, balanced, large or a finite number" in err
    code, _, err = run(*CERTIFY, "--method", "fixed", "--sigma", 0.25, "--prefer", "small")
    assert code == 2
    assert "prefer belongs to --method dual" in err
    assert not Path("run").exists()


def test_a_frontier_is_drawn_and_goes_on(run: Run) -> None:
    pytest.importorskip("matplotlib")
    command = ("frontier", "ordered", "--data", "digits", "--max", 3, "--n0", 10, "--n", 100,
               "--precision", "fp32", "--out", "f")  # fmt: skip
    code, out, err = run(*command)
    assert code == 0, err
    assert "dual (median), small" in out
    assert "exploration" in out
    names = {path.name for path in Path("f").iterdir() if path.is_file()}
    assert names == {f"frontier.{kind}" for kind in ("json", "md", "html", "png", "svg")}
    page = Path("f/frontier.html").read_text()
    assert all(part in page for part in ('name="viewport"', "prefers-color-scheme", 'scope="row"'))
    first = Path("f/frontier.json").read_bytes()
    assert run(*command)[0] == 0
    assert Path("f/frontier.json").read_bytes() == first
    assert "must have a selector" in run("frontier", "digits-dual", *command[2:])[2]


def test_a_frontier_takes_images_by_their_own_ids(run: Run) -> None:
    pytest.importorskip("matplotlib")
    digits = load_images("digits")
    known = {
        "images": digits.images[:3],
        "labels": digits.labels[:3],
        "index": np.array([7, 30, 3]),
    }
    np.savez("some.npz", **known)
    command = ("frontier", "ordered", "--data", "npz:some.npz", "--skip", 2, "--n0", 10)
    code, _, err = run(*command, "--n", 100, "--precision", "fp32", "--out", "f")
    assert code == 0, err
    assert [c.image_id for c in read_log(next(Path("f").glob("*/run.json")).parent)] == [3, 7]
