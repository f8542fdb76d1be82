"""An audit finds what was altered, and nothing in honest runs."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualsmooth.benchmarks.soak.fuzz.inputs import signed
from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.draws import DrawRecord
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.audit import audit, check_classes
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runtime.returned import check_disjoint
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

IMAGES = 8
BUDGETS = [
    Budget.fixed(20, 400),
    Budget.decide((0.05, 0.1, 0.2), 20, 600),
    Budget.precise(0.1, 50, 600),
]


def write(
    folder: Path, method: Method, data: ImageSet, budget: Budget, images: int = IMAGES, **more: Any
) -> Path:
    settings = Settings(budget, precision="fp32", device="cpu")
    certify_run(method, data, list(range(images)), settings, folder, make=FakeSampler, **more)
    return folder


@pytest.fixture(scope="module")
def run(tiny_bundle: Path, data: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with abstentions and certificates."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    write(folder, DualSmoothing(load_bundle(tiny_bundle)), data, BUDGETS[0])
    assert {c.predicted is None for c in read_log(folder)} == {True, False}
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


METHODS: dict[str, Callable[[Any], Method]] = {
    "fixed": lambda bundle: FixedSmoothing(bundle, 0.25),
    "interval": DualSmoothing,
    "point": lambda bundle: DualSmoothing(bundle, routing="point"),
    "plurality": lambda bundle: DualSmoothing(bundle, "plurality"),
    "published": lambda bundle: DualSmoothing(bundle, "plurality", published_split=True),
}


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.kind)
@pytest.mark.parametrize("name", METHODS)
def test_honest_runs_are_clean(
    tiny_bundle: Path, data: ImageSet, tmp_path: Path, name: str, budget: Budget
) -> None:
    method = METHODS[name](load_bundle(tiny_bundle))
    seen = audit(write(tmp_path / "run", method, data, budget), data)
    assert seen.findings == []
    assert seen.notes == []
    assert len(seen.certificates) == IMAGES
    again = write(tmp_path / "again", method, data, budget, reuse=[tmp_path / "run"])
    assert audit(again, data).findings == []


def test_unfinished_runs_are_clean_and_said_to_be_unfinished(copied: Path, data: ImageSet) -> None:
    log = copied / "certificates.jsonl"
    log.write_bytes(log.read_bytes()[:-100])
    (copied / "certificates.tsv").unlink()
    assert audit(copied, data).findings[0] == "certificates.jsonl: the last line is torn"
    (copied / "summary.json").unlink()
    seen = audit(copied, data)
    assert seen.findings == []
    assert f"unfinished: {IMAGES - 1} of {IMAGES} images" in seen.notes
    assert "certificates.jsonl: the last line is torn" in seen.notes


def forge(folder: Path, change: Callable[[dict[str, Any]], object], line: int = 0) -> list[str]:
    """Alter a certificate, write it with a right checksum, redo the tables; returns findings."""
    certificates = read_log(folder)
    record = json.loads(certificates[line].to_json())
    change(record)
    ledger = {key: value for key, value in record["alpha"].items() if key != "total"}
    record["alpha"]["total"] = AlphaLedger(**ledger).total
    log = folder / "certificates.jsonl"
    lines = log.read_text().splitlines()
    lines[line] = json.dumps(signed(record))
    log.write_text("\n".join(lines) + "\n")
    return audit(folder).findings


def certified(folder: Path) -> int:
    return next(i for i, c in enumerate(read_log(folder)) if c.predicted is not None)


def votes_of(record: dict[str, Any], phase: str) -> list[int]:
    votes: list[int] = next(r for r in record["counts"] if r["phase"] == phase)["votes"]
    return votes


def more_votes(record: dict[str, Any]) -> None:
    votes_of(record, "CLASS_ESTIMATE")[record["predicted"]] += 1


def moved_vote(record: dict[str, Any]) -> None:
    votes = votes_of(record, "CLASS_ESTIMATE")
    other = next(i for i, v in enumerate(votes) if v and i != record["predicted"])
    votes[other] -= 1
    votes[record["predicted"]] += 1


def negative_vote(record: dict[str, Any]) -> None:
    votes = votes_of(record, "CLASS_ESTIMATE")
    votes[record["predicted"]] += votes[-1] + 1
    votes[-1] = -1


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "radius by one bit": (
        lambda r: r.update(radius=r["radius"] * (1 + 2**-52)),
        "give another radius",
    ),
    "a vote too many": (more_votes, "sum to 400"),
    "a negative vote": (negative_vote, "must be >= 0"),
    "a moved vote": (moved_vote, "the recorded votes give another radius"),
    "a draw too few": (lambda r: r["counts"].pop(), "asks for a draw that is not recorded"),
    "a draw twice": (lambda r: r["counts"].append(r["counts"][-1]), "is used twice"),
    "a draw of its own": (
        lambda r: r["counts"].append(r["counts"][-1] | {"first": 10_000}),
        "nothing asks for",
    ),
    "samples of another place": (
        lambda r: r["counts"][-1].update(first=1000),
        "the method asks for the draw",
    ),
    "votes that chose reused": (
        lambda r: r["counts"][1].update(phase="SELECT_GUESS"),
        "is used twice",
    ),
    "image": (lambda r: r.update(image_id=r["image_id"] + 1), "has a line already"),
    "type": (lambda r: r.update(predicted=float(r["predicted"])), "predicted must be int"),
    "field": (lambda r: r["bounds"][0].update(note="trust me"), "must have its fields"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_statement_with_a_right_checksum_is_found(copied: Path, name: str) -> None:
    change, message = FORGERIES[name]
    findings = forge(copied, change, certified(copied))
    assert findings
    assert message in findings[0]


def test_another_image_for_the_votes_is_found_with_the_data(
    copied: Path, data: ImageSet, tmp_path: Path
) -> None:
    """Without networks nobody can say whose votes they are; labels and digests still bind."""
    forge(copied, lambda r: r.update(label=(r["label"] + 1) % 10), certified(copied))
    for name in ("certificates.tsv", "summary.json"):
        (copied / name).unlink()
    assert audit(copied).findings == []
    assert "other labels" in audit(copied, data).findings[0]
    other = dataclasses.replace(data, images=255 - data.images)
    findings = audit(copied, other).findings
    assert any("other images than those recorded" in finding for finding in findings)


def test_labels_in_another_order_than_the_bundle_s_names_are_found(
    copied: Path, data: ImageSet
) -> None:
    names = ("zero", "one", *map(str, range(2, 10)))
    named = dataclasses.replace(data, classes=names)
    for known, found in ((names, 0), (names[::-1], 1), ((), 0)):
        seen = audit(copied, data)
        check_classes(seen, named, known)
        assert len(seen.findings) == found


@pytest.mark.parametrize(
    ("ids", "chosen"), [([0, 1, 2], False), ([0, 3, 6], False), ([0, 1, 3], True), ([1, 2], True)]
)
def test_images_that_somebody_chose_are_noted(
    tiny_bundle: Path, data: ImageSet, tmp_path: Path, ids: list[int], chosen: bool
) -> None:
    """Leaving out those that fail changes no certificate, and every share of them."""
    method = FixedSmoothing(load_bundle(tiny_bundle), 0.25)
    settings = Settings(Budget.fixed(5, 20), precision="fp32", device="cpu")
    certify_run(method, data, ids, settings, tmp_path / "run", make=FakeSampler)
    seen = audit(tmp_path / "run", data)
    assert seen.findings == []
    assert any("but chosen" in note for note in seen.notes) == chosen


@pytest.mark.parametrize("region", [None, "memory"])
def test_ids_that_do_not_ascend_are_no_forgery(
    tiny_bundle: Path, data: ImageSet, tmp_path: Path, region: str | None
) -> None:
    """As those of an archive with an index; a memory is asked in the order of its audit."""
    turned = dataclasses.replace(data, ids=np.arange(len(data))[::-1] * 7)
    options: dict[str, Any] = {"method": "insta", "region": region} if region else {"sigma": 0.25}
    method = choose_method(load_bundle(tiny_bundle), **options)
    settings = Settings(Budget.fixed(5, 40), 0.05, precision="fp32", device="cpu")
    ids = turned.image_ids[:4]
    certify_run(method, turned, ids, settings, tmp_path / "run", make=FakeSampler)
    seen = audit(tmp_path / "run", turned)
    assert (seen.findings, seen.trusted) == ([], [])
    if region:
        again = choose_method(load_bundle(tiny_bundle), **options)
        with pytest.raises(ArgumentError, match=r"image_ids must ascend with insta.memory"):
            certify(again, turned, budget=settings.budget, progress=False)


def test_tables_must_be_those_of_the_log(copied: Path) -> None:
    for name in ("certificates.tsv", "summary.json"):
        path = copied / name
        text = path.read_text()
        path.write_text(text.replace("0.", "0.9", 1))
        assert audit(copied).findings == [f"{name}: is not the one of certificates.jsonl"]
        path.unlink()
        assert audit(copied).findings == [f"{name}: No such file or directory"]
        path.write_text(text)


def test_lost_lines_of_a_finished_run_are_found(copied: Path) -> None:
    log = copied / "certificates.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]))
    assert audit(copied).findings[0] == "certificates.jsonl: 7 images, where the run has 8"
    log.write_text("".join([lines[1], lines[0], *lines[2:]]))
    assert "must be in order" in audit(copied).findings[0]
    log.unlink()
    assert "No such file" in audit(copied).findings[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(alpha=0.01), "fingerprint"),
        (lambda c: c["bundle_manifest"].update(tau=0.25), "digest of bundle_manifest"),
        (lambda c: c["options"].update(routing="point"), "not that of its options"),
        (lambda c: c.update(n="many"), "n must be an integer"),
        (lambda c: c.update(bundle_manifest=[]), "must have the fields"),
        (lambda c: c.pop("radii"), "radii"),
        (lambda c: c.update(image_ids_digest="0"), "other images than the run set out"),
        (lambda c: c.update(n=401), "the method asks for the draw"),
    ],
)
def test_an_altered_configuration_is_found(
    copied: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = copied / "run.json"
    record = json.loads(path.read_text())
    change(record["configuration"])
    path.write_text(json.dumps(record if message == "fingerprint" else signed(record)))
    assert message in audit(copied).findings[0]


def test_what_is_no_part_of_the_run_is_named(copied: Path) -> None:
    """A report beside a run may say anything."""
    for name in ("summary.md", "report.html"):
        (copied / name).write_text("99.9 %")
    (note,) = (note for note in audit(copied).notes if "no part of the run" in note)
    assert note.startswith("not read, as no part of the run: report.html, summary.md (`report`")


def test_a_folder_without_a_run_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="must be a run folder"):
        audit(tmp_path)


def test_disjoint_ranges() -> None:
    def draw(first: int, count: int, phase: str = "CLASS_ESTIMATE", level: int = 0) -> DrawRecord:
        return DrawRecord("m", 0.25, phase, level, first, count, ())

    check_disjoint((draw(10, 5), draw(0, 10), draw(0, 99, level=1), draw(0, 99, "CLASS_GUESS")))
    for overlap in (draw(14, 1), draw(9, 1), draw(0, 100)):
        with pytest.raises(ValueError, match="is used twice"):
            check_disjoint((draw(10, 5), draw(0, 10), overlap))


@pytest.mark.parametrize("trials", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_single_byte_changes_are_found(copied: Path, trials: int) -> None:
    """Of the log, even where its JSON means the same."""
    path = copied / "certificates.jsonl"
    honest, rng = path.read_bytes(), random.Random(2026)
    for _ in range(trials):
        position = rng.randrange(len(honest))
        altered = bytearray(honest)
        altered[position] ^= rng.randrange(1, 256)
        path.write_bytes(altered)
        assert audit(copied).findings, position
    path.write_bytes(honest)
    assert audit(copied).findings == []


def test_a_broken_auditor_would_miss_them(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second derivation a radius with a right checksum passes."""
    monkeypatch.setattr("dualsmooth.engine.runs.audit.differences", lambda *_: [])
    for name in ("certificates.tsv", "summary.json"):
        (copied / name).unlink()
    assert forge(copied, lambda r: r.update(radius=9.0), certified(copied)) == []
