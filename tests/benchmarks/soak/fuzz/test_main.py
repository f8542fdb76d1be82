"""Damaged files of every kind: only the documented error leaves a parser."""

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualsmooth.benchmarks.soak.fuzz import watch as fuzz_watch
from dualsmooth.benchmarks.soak.fuzz.__main__ import fuzz, input_of, outcome
from dualsmooth.benchmarks.soak.fuzz.inputs import spoiled
from dualsmooth.benchmarks.soak.fuzz.targets import Target, targets
from dualsmooth.engine.errors import FileError

NAMES = (
    "certificates.jsonl", "run.json", "audit of run.json", "audit", "report of run.json",
    "report of log", "tsv", "idx", "npz", "anchors", "memory", "metrics",
    "cifar pickle", "cifar records", "image", "bundle.json", "safetensors", "deployment.json",
    "onnx", "pt2", "checkpoint",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seeds")


@pytest.fixture(scope="module")
def known(place: Path) -> dict[str, Target]:
    return targets(place)


def test_every_target_is_listed_and_accepts_its_first_seed(
    known: dict[str, Target], place: Path, tmp_path: Path
) -> None:
    assert tuple(known) == NAMES
    for name, target in known.items():
        (tmp_path / name).mkdir()
        for number, seed in enumerate(target.seeds):
            kind, error = outcome(target, tmp_path / name, seed, place / "ran")
            assert error == ""
            assert kind == "accepted" or (number > 0 and kind == "refused"), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(
    known: dict[str, Target], place: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder, target = tmp_path_factory.mktemp("damaged"), known[name]

    @settings(max_examples=3 * target.share)
    @given(st.randoms(use_true_random=False))
    def only_the_documented_error(rng: random.Random) -> None:
        data = spoiled(target.seeds, target.is_json, rng)
        assert outcome(target, folder, data, place / "ran")[1] == ""

    only_the_documented_error()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files(known: dict[str, Target], place: Path, name: str) -> None:
    inputs = 100 * known[name].share
    tally = fuzz(name, known[name], range(inputs), 1, place)
    assert tally.failures == []
    assert tally.outcomes.total() == inputs
    assert 0 < tally.outcomes["accepted"] < inputs


def test_inputs_depend_on_their_number_only(known: dict[str, Target]) -> None:
    target = known["tsv"]
    again = input_of("tsv", target, 0, 7)
    assert again == input_of("tsv", target, 0, 7)
    assert again != input_of("tsv", target, 0, 8)
    assert again != input_of("tsv", target, 1, 7)


@pytest.mark.parametrize("number", ["1e999", "NaN", "1" + "0" * 400])
def test_numbers_that_json_allows_and_floats_do_not(
    known: dict[str, Target], place: Path, tmp_path: Path, number: str
) -> None:
    for name, field in (("deployment.json", '"alpha": 0.001'), ("bundle.json", '"tau": 0.5')):
        (seed,) = known[name].seeds
        assert seed.decode().count(field) == 1
        changed = seed.decode().replace(field, field.split(" ")[0] + number)
        assert outcome(known[name], tmp_path, changed.encode(), place / "ran") == ("refused", "")


def careless(folder: Path, data: bytes) -> None:
    """A parser with a hole of each kind."""
    if b"1" not in data:
        raise FileError(folder, "must hold a 1")
    if b"2" not in data:
        raise ValueError("an error nobody documented")
    if b"3" not in data:
        raise AssertionError("accepted what it must not")
    if b"4" not in data:
        os._exit(7)
    if b"5" not in data:
        while True:
            pass
    if b"6" not in data:
        time.sleep(3600)
    if b"7" not in data:
        (folder.parent / "ran").touch()


def test_a_parser_with_holes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_watch, "SECONDS_PER_INPUT", 0.02)
    monkeypatch.setattr(fuzz_watch, "STILL", 2.0)
    tally = fuzz("careless", Target([b"1234567"], careless), range(40), 0, tmp_path)
    assert set(tally.outcomes) == {
        "accepted", "refused", "escaped", "wrong", "died", "slow", "hung"
    }  # fmt: skip
    assert tally.outcomes.total() == 40
    failed = 40 - tally.outcomes["accepted"] - tally.outcomes["refused"]
    assert len(tally.failures) == failed
