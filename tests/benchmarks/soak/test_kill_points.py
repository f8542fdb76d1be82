"""Kill points: an honest run passes, one that forgets or repeats certificates does not."""

import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from dualsmooth.benchmarks.soak import kill_points
from dualsmooth.benchmarks.soak.fuzz.seeds import make_bundle
from dualsmooth.benchmarks.soak.kill_points import FILES, Certify, certify, disturbed, lines_of
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.models.sources.folder import read_bundle
from dualsmooth.engine.runs.log import LOG

LINES = [b"%d" % i for i in range(40)]


def imitated(folder: Path, *, forgets: bool = False, repeats: bool = False) -> None:
    """A run without networks: adds the lines that are missing."""
    folder.mkdir(exist_ok=True)
    mode = "wb" if forgets else "ab"
    done = set() if repeats else set(lines_of(folder))
    with (folder / LOG).open(mode, buffering=0) as log:
        for line in LINES:
            if line not in done:
                log.write(line + b"\n")
                time.sleep(0.002)


def several(run: Certify, place: Path) -> Counter[str]:
    """Ten disturbed runs."""
    total: Counter[str] = Counter()
    for seed in range(10):
        total += disturbed(run, place / str(seed), random.Random(seed), 5)
    return total


def test_an_honest_run_passes(tmp_path: Path) -> None:
    assert several(imitated, tmp_path)["kill driver"] >= 5
    for seed in range(10):
        assert sorted(lines_of(tmp_path / str(seed))) == sorted(LINES)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (partial(imitated, forgets=True), "left the disk"),
        (partial(imitated, repeats=True), "there twice"),
    ],
    ids=["forgets", "repeats"],
)
def test_a_run_that_loses_or_repeats_certificates_is_found(
    tmp_path: Path, run: Certify, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        several(run, tmp_path)


@pytest.mark.parametrize("faults", [("kill driver",), ("kill starting worker",)])
def test_a_run_that_stands_still_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: tuple[str, ...]
) -> None:
    monkeypatch.setattr(kill_points, "LONGEST", 0.5)
    with pytest.raises(AssertionError, match=r"nothing happened for 0\.5 s"):
        disturbed(lambda _: time.sleep(60), tmp_path, random.Random(1), 1, faults)


@pytest.mark.slow
def test_two_workers_end_with_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    bundle, rng = read_bundle(tmp_path / "bundle"), random.Random(7)
    run = partial(certify, bundle, load_images("digits"))
    disturbed(run, tmp_path / "whole", rng, 0)
    done, runs = 0, 0
    while done < 6:  # a run may end before it was struck so often
        folder, runs = tmp_path / str(runs), runs + 1
        done += disturbed(run, folder, rng, 6).total()
        for name in FILES:
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
