"""Votes drawn again: equal where they must be, likely elsewhere, and forged ones found."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.machine import machine
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.audit import Audit, audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.replay import Choice, replay, smallest_p
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.samplers.sampler import MakeSampler
from dualsmooth.engine.settings import Settings

BUDGET = Budget.fixed(20, 2000)
ALL = 1.0


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("digits-dual")


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return load_images("digits")


def certified(
    folder: Path, bundle: Bundle, data: ImageSet, seed: int = 0, make: MakeSampler | None = None
) -> Path:
    settings = Settings(BUDGET, seed=seed, precision="fp32", device="cpu")
    certify_run(DualSmoothing(bundle), data, list(range(6)), settings, folder, make=make)
    return folder


@pytest.fixture(scope="module")
def run(bundle: Bundle, data: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certified(tmp_path_factory.mktemp("runs") / "run", bundle, data)


def replayed(
    folder: Path, bundle: Bundle, data: ImageSet, comparison: str = "auto", share: float = ALL
) -> Audit:
    seen = audit(folder, data)
    assert seen.findings == []
    assert seen.plan is not None
    replay(seen, seen.plan, bundle, data, Choice(share, 3, comparison))
    return seen


@pytest.mark.parametrize("comparison", ["auto", "exact", "statistical"])
def test_an_honest_run_passes(run: Path, bundle: Bundle, data: ImageSet, comparison: str) -> None:
    seen = replayed(run, bundle, data, comparison)
    assert seen.findings == []
    exactly = comparison != "statistical"
    assert ("compared exactly" in seen.passed[-1]) == exactly
    assert "6 of 6 certificates, choice seed 3" in seen.passed[-1]


@pytest.mark.parametrize("comparison", ["exact", "statistical"])
def test_runs_of_integer_noise_are_drawn_again_with_it(
    bundle: Bundle, data: ImageSet, tmp_path: Path, comparison: str
) -> None:
    settings = Settings(BUDGET, precision="fp32", device="cpu", noise="integer")
    certify_run(DualSmoothing(bundle), data, list(range(3)), settings, tmp_path / "run")
    assert replayed(tmp_path / "run", bundle, data, comparison).findings == []


def test_votes_of_other_noise_are_found_exactly_but_not_statistically(
    run: Path, bundle: Bundle, data: ImageSet, tmp_path: Path
) -> None:
    """Certificates of seed 1 passed off as those of seed 0: the same law, other votes."""
    folder = certified(tmp_path / "run", bundle, data, seed=1)
    lines = [dataclasses.replace(c, seed=0).to_json() for c in read_log(folder)]
    (folder / "certificates.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "run.json").write_bytes((run / "run.json").read_bytes())
    assert "other votes for 5 images" in replayed(folder, bundle, data).findings[0]
    assert replayed(folder, bundle, data, "statistical").findings == []


def test_invented_votes_are_found_by_the_statistical_comparison(
    bundle: Bundle, data: ImageSet, tmp_path: Path
) -> None:
    folder = certified(tmp_path / "run", bundle, data, make=FakeSampler)
    assert "other votes" in replayed(folder, bundle, data).findings[0]
    with pytest.raises(ArgumentError, match="must not be exact without the sampler fake"):
        replayed(folder, bundle, data, "exact")


def test_another_machine_is_compared_statistically(
    run: Path, bundle: Bundle, data: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = machine() | {"processor": "another one"}
    monkeypatch.setattr("dualsmooth.engine.runs.replay.machine", lambda: elsewhere)
    seen = replayed(run, bundle, data, share=0.3)
    assert seen.findings == []
    assert "2 of 6 certificates" in seen.passed[-1]
    assert "independent noise" in seen.passed[-1]


def test_choices_are_seeded_and_cover_the_share() -> None:
    ids = list(range(100, 200))
    assert Choice(0.02, 1).of(ids) == Choice(0.02, 1).of(ids)
    assert Choice(0.02, 1).of(ids) != Choice(0.02, 2).of(ids)
    assert len(Choice(0.02, 1).of(ids)) == 2
    assert len(Choice(0.001, 1).of(ids)) == 1
    assert Choice(1.0, 1).of(ids) == ids
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match=r"^replay must be"):
            Choice(share, 1)
    with pytest.raises(ArgumentError, match=r"^compare must be one of"):
        Choice(0.5, 1, "kindly")


def test_fishers_test_keeps_its_level_and_sees_a_shift() -> None:
    """600 pairs of 3 classes, each class tested at level 0.05: at most 90 alarms expected."""
    rng = np.random.default_rng(7)
    pairs = rng.multinomial(300, [0.6, 0.39, 0.01], (600, 2))
    alarms = sum(smallest_p(pair) <= 0.05 for pair in pairs)
    assert 10 <= alarms <= 90
    shifted = np.stack([rng.multinomial(3000, p) for p in ([0.6, 0.4, 0], [0.7, 0.3, 0])])
    assert smallest_p(shifted) < 1e-9
    assert smallest_p(np.array([[5, 0, 0], [5, 0, 0]])) == 1.0
