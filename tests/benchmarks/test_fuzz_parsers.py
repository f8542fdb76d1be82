"""Damaged files of every kind: only the documented error leaves a parser."""

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualsmooth.benchmarks.fake_sampler import FakeSampler
from dualsmooth.benchmarks.fuzz_parsers import fuzz, spoiled
from dualsmooth.benchmarks.fuzz_targets import Target, targets
from dualsmooth.engine import Budget, DualSmoothing
from dualsmooth.engine.certify_run import certify_run
from dualsmooth.engine.data import load_images
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.bundle_files import read_bundle, save_bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.settings import Settings

NAMES = (
    "bundle.json", "safetensors", "certificates.jsonl", "run.json", "audit", "tsv", "idx", "npz",
    "anchors", "memory", "cifar pickle", "cifar records", "image",
)  # fmt: skip


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    folder = tmp_path_factory.mktemp("seeds")
    networks = {}
    for role, outputs in (("selector", 2), ("classifier", 10)):
        kwargs = {"widths": [2], "hidden": 2, "num_classes": outputs}
        module = create("small_convnet", kwargs).eval()
        networks[role] = network_from_module(module, "small_convnet", kwargs)
    bundle = Bundle.from_modules(
        networks, num_classes=10, input_shape=(8, 8, 1), sigmas=(0.12, 0.25), tau=0.5
    )
    save_bundle(bundle, folder / "bundle")
    certify_run(
        DualSmoothing(read_bundle(folder / "bundle")), load_images("digits"), list(range(4)),
        Settings(Budget.fixed(10, 100), device="cpu"), folder / "run", make=FakeSampler,
    )  # fmt: skip
    return targets(folder / "bundle", folder / "run")


def test_every_target_is_listed_and_accepts_its_seeds(
    known: dict[str, Target], tmp_path: Path
) -> None:
    assert tuple(known) == NAMES
    for name, target in known.items():
        (tmp_path / name).mkdir()
        seeds = target.seeds[:2] if name in ("idx", "npz") else target.seeds
        for seed in seeds:
            target.parse(tmp_path / name, seed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(
    known: dict[str, Target], tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged")

    @settings(max_examples=max(5, 5 * known[name].share))
    @given(st.randoms(use_true_random=False))
    def only_the_documented_error(rng: random.Random) -> None:
        with contextlib.suppress(FileError):
            known[name].parse(folder, spoiled(known[name], rng))

    only_the_documented_error()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files(known: dict[str, Target], tmp_path: Path, name: str) -> None:
    inputs = 200 * known[name].share
    accepted, broken = fuzz(known[name], inputs, 1, tmp_path)
    assert broken == []
    assert accepted < inputs


def test_a_parser_with_a_hole_is_noticed(tmp_path: Path) -> None:
    def careless(folder: Path, data: bytes) -> None:
        if b"7" in data:
            raise ValueError("an error nobody documented")

    _, broken = fuzz(Target([b"1234567"], careless), 50, 0, tmp_path)
    assert broken
