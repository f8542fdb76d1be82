"""Votes of earlier runs: found where they are the same, refused where an audit accuses them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_array_equal

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.draws import Draw, DrawRecord, Phase
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.runs.reuse import read_votes
from dualsmooth.engine.runtime.known import RecordedVotes
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

DRAW = Draw("classifier", 0.25, Phase.CLASS_ESTIMATE, 0, 50, 1)


@pytest.fixture(scope="module")
def drawn(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "run"
    settings = Settings(Budget.fixed(10, 50), precision="fp32", device="cpu")
    method = FixedSmoothing(load_bundle(tiny_bundle), 0.25)
    certify_run(method, load_images("digits"), [0, 1], settings, folder, make=FakeSampler)
    return folder


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "copy")


def read(folder: Path, wanted: Path) -> RecordedVotes:
    return read_votes([folder], read_configuration(wanted), load_images("digits"), [0, 1])


def test_a_recorded_draw_is_found(drawn: Path) -> None:
    found = read(drawn, drawn).find(1, DRAW)
    assert found.counted == DRAW.count
    assert_array_equal(found.votes, read_log(drawn)[1].counts[-1].votes)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"sigma": 0.5},
        {"phase": Phase.SELECT_GUESS},
        {"level": 0},
        {"first": 1},
        {"count": 49},
    ],
    ids=str,
)
def test_any_other_draw_is_not(drawn: Path, change: dict[str, object]) -> None:
    """Votes of another network, level, phase or sample would be reused noise or plainly wrong."""
    book = read(drawn, drawn)
    assert book.find(1, replace(DRAW, **change)).counted == 0  # type: ignore[arg-type]
    assert book.find(7, DRAW).counted == 0


def with_votes(folder: Path, change: Callable[[list[int]], object]) -> None:
    lines = []
    for c in read_log(folder):
        *others, last = c.counts
        votes = list(last.votes)
        change(votes)
        forged: DrawRecord = replace(last, votes=tuple(votes))
        lines.append(replace(c, counts=(*others, forged)).to_json() + "\n")
    (folder / "certificates.jsonl").write_text("".join(lines))


@pytest.mark.parametrize(
    "change",
    [
        lambda votes: votes.__setitem__(0, votes[0] + 1),
        lambda votes: votes.__setitem__(slice(0, 2), [-1, sum(votes[:2]) + 1]),
        lambda votes: votes.append(0),
        lambda votes: votes.pop(),
        lambda votes: votes.sort(),
    ],
    ids=["too many", "negative", "another class", "a class less", "of other classes"],
)
def test_votes_that_an_audit_accuses_are_not_reused(
    folder: Path, drawn: Path, change: Callable[[list[int]], object]
) -> None:
    with_votes(folder, change)
    with pytest.raises(FileError, match="must pass an audit"):
        read(folder, drawn)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("processor", "another", "processor 'another', here '"),
        ("instructions", "0", "instructions '0', here '"),
        ("versions", {}, "torch None, here '"),
    ],
)
def test_votes_of_another_machine_are_not_reused(
    folder: Path, drawn: Path, key: str, value: object, told: str
) -> None:
    path = folder / "run.json"
    record: dict[str, Any] = json.loads(path.read_text())
    record["machine"][key] = value
    path.write_text(json.dumps(record))
    with pytest.raises(FileError, match="fingerprint"):
        read(folder, drawn)
    covered = {name: record[name] for name in ("configuration", "machine")}
    path.write_text(json.dumps(record | {"fingerprint": digest_of(covered)}))
    with pytest.raises(FileError, match=f"its votes on such a machine; received {told}[^']*'$"):
        read(folder, drawn)
