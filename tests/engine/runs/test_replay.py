"""Votes drawn again: equal where they must be, likely elsewhere, and forged ones found."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.machine import machine
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.runs.audit import Audit, audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.runs.rederive import plan_of, rederive
from dualsmooth.engine.runs.replay import Choice, pooled_z, replay, smallest_p
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.samplers.sampler import MakeSampler
from dualsmooth.engine.settings import Settings

BUDGET = Budget.fixed(20, 2000)
ALL = 1.0


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("digits-dual")


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


def shifted(folder: Path, deviations: float) -> None:
    """Give every winner some standard deviations more votes, and make the rest of it fit."""
    plan = plan_of(read_configuration(folder))
    lines = []
    for c in read_log(folder):
        counts = []
        for record in c.counts:
            votes = list(record.votes)
            if record.phase == "CLASS_ESTIMATE":
                order = sorted(range(len(votes)), key=lambda i: -votes[i])
                top, second, n = order[0], order[1], sum(votes)
                sd = math.sqrt(votes[top] * (n - votes[top]) / n)
                more = min(votes[second], round(deviations * sd))
                votes[top] += more
                votes[second] -= more
            counts.append(dataclasses.replace(record, votes=tuple(votes)))
        lines.append(rederive(plan, dataclasses.replace(c, counts=tuple(counts))).to_json())
    (folder / "certificates.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("certificates.tsv", "summary.json"):
        (folder / name).unlink()


@pytest.fixture(scope="module")
def many(bundle: Bundle, data: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "run"
    settings = Settings(Budget.fixed(20, 600), precision="fp32", device="cpu")
    certify_run(FixedSmoothing(bundle, 0.5), data, list(range(30)), settings, folder)
    return folder


def test_a_small_shift_of_every_winner_is_found_by_pooling(
    many: Path, bundle: Bundle, data: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = replayed(shutil.copytree(many, tmp_path / "honest"), bundle, data, "statistical")
    assert honest.findings == []
    forged = shutil.copytree(many, tmp_path / "forged")
    shifted(forged, 2.0)
    assert "other votes for 30 images" in replayed(forged, bundle, data, "statistical").findings[0]
    monkeypatch.setattr("dualsmooth.engine.runs.replay.pooled_z", lambda _: 0.0)
    assert replayed(forged, bundle, data, "statistical").findings == []


def test_pooled_differences_keep_their_level_and_see_either_sign() -> None:
    rng = np.random.default_rng(11)
    z = [
        pooled_z([rng.multinomial(200, [p, 1 - p, 0], 2) for p in (0.5, 0.9, 0.995)])
        for _ in range(3000)
    ]
    assert abs(float(np.mean(z))) < 0.1
    assert 0.85 < float(np.std(z)) < 1.1
    ahead = [np.array([[120, 80], [100, 100]])] * 16
    assert pooled_z(ahead) > 7.0
    assert pooled_z([votes[::-1] for votes in ahead]) < -7.0
    assert pooled_z([np.array([[9, 0], [9, 0]])]) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another one"},
        {"instructions": "0 ATEN_CPU_CAPABILITY=default"},
        {"instructions": None},
        {"versions": {**machine()["versions"], "torch": "0.0"}},
    ],
    ids=str,
)
def test_a_named_machine_is_under_the_fingerprint_and_weakens_the_verdict(
    run: Path, bundle: Bundle, data: ImageSet, tmp_path: Path, change: dict[str, object]
) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    path = folder / "run.json"
    record = json.loads(path.read_text())
    record["machine"] |= change
    path.write_text(json.dumps(record))
    assert "fingerprint" in audit(folder, data).findings[0]
    covered = {key: record[key] for key in ("configuration", "machine")}
    path.write_text(json.dumps(record | {"fingerprint": digest_of(covered)}))
    seen = replayed(folder, bundle, data, share=0.3)
    assert seen.findings == []
    assert "another processor, device or library" in seen.trusted[0]
    assert replayed(folder, bundle, data, "statistical", 0.3).trusted == []
    assert replayed(folder, bundle, data, "exact", 0.3).trusted == []
