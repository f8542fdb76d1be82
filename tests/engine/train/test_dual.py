from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dualsmooth.engine.data import ImageSet, load_images
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.bundle import load_bundle
from dualsmooth.engine.train import recipes
from dualsmooth.engine.train.digits import DIGITS_DUAL, train_digits_dual
from dualsmooth.engine.train.dual import steps, train_dual
from dualsmooth.engine.train.recipes import train, training_split

TINY = replace(
    DIGITS_DUAL,
    widths=(4, 4),
    hidden=8,
    classifying=replace(DIGITS_DUAL.classifying, epochs=1),
    selecting=replace(DIGITS_DUAL.selecting, epochs=1),
    votes=8,
)


def test_a_short_run_ends_in_a_loadable_bundle(tmp_path: Path) -> None:
    trained = train_digits_dual(TINY, tmp_path / "bundle", progress=False)
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.digest == trained.digest
    assert (loaded.sigmas, loaded.tau) == ((0.12, 0.25, 0.5), 0.5)
    assert {loaded.classifier_at(sigma) for sigma in loaded.sigmas} | {"selector"} == set(
        loaded.networks
    )
    for role in loaded.networks:
        assert loaded.build(role)(torch.zeros(2, 1, 8, 8)).shape == (2, loaded.outputs(role))


def test_the_seed_decides_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_images("digits:train")
    few = ImageSet(digits.images[:300], digits.labels[:300], "few", digits.classes)
    done: list[str] = []
    first = train_dual(few, TINY, done.append)
    assert len(done) == steps(TINY)
    torch.manual_seed(12345)  # whatever the caller's random state
    before = torch.get_rng_state()
    second, other = train_dual(few, TINY), train_dual(few, replace(TINY, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    for role, network in first.networks.items():
        assert network.weights == second.networks[role].weights
        assert network.weights != other.networks[role].weights


def test_training_improves_on_the_start() -> None:
    digits = load_images("digits:train")
    x = torch.from_numpy(digits.images).permute(0, 3, 1, 2) / 255
    recipe = replace(
        TINY,
        widths=(8, 16),
        hidden=32,
        classifying=replace(TINY.classifying, epochs=15),
        experts=TINY.experts[:1],
        tau=0.12,
    )
    module = train_dual(digits, recipe).build("classifier@0.12")
    accuracy = (module(x).argmax(1).numpy() == digits.labels).mean()
    assert accuracy > 0.9


def test_bad_data_and_places(tmp_path: Path) -> None:
    digits = load_images("digits:train")
    unknown = ImageSet(digits.images, np.full(len(digits), -1), "unknown", digits.classes)
    with pytest.raises(ArgumentError, match="all with labels; received unknown"):
        train_dual(unknown, TINY)
    (tmp_path / "there").mkdir()
    with pytest.raises(FileError, match="there: must not exist yet"):
        train_digits_dual(TINY, tmp_path / "there", progress=False)


def test_recipes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="must be one of digits-dual; received digit"):
        train("digit", "digits", tmp_path / "bundle")
    monkeypatch.setitem(recipes.RECIPES, "digits-dual", TINY)
    seen = []
    monkeypatch.setattr(
        recipes,
        "train_digits_dual",
        lambda recipe, out, data, progress: seen.append((recipe, data)),
    )
    train("digits-dual", "digits", tmp_path / "bundle", seed=7)
    assert seen == [(replace(TINY, seed=7), "digits:train")]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("digits", "digits:train"),
        ("digits:train", "digits:train"),
        ("digits:test", "digits:test"),
        ("idx", "idx::train"),
        ("idx:", "idx::train"),
        ("idx:a/b", "idx:a/b:train"),
        ("cifar10:c:test", "cifar10:c:test"),
        ("npz:x.npz", "npz:x.npz"),
        ("folder:d", "folder:d"),
    ],
)
def test_training_never_falls_on_the_test_split(spec: str, expected: str) -> None:
    assert training_split(spec) == expected
