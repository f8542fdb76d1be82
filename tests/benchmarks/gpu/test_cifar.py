"""Training and certifying in two commands, at tiny sizes on the CPU."""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dualsmooth.benchmarks.gpu import certify as device_certify
from dualsmooth.benchmarks.gpu import cifar as device_cifar
from dualsmooth.benchmarks.gpu import cifar_files as cifar_data
from dualsmooth.benchmarks.gpu.child import items_of
from dualsmooth.benchmarks.gpu.items import Place, Turn
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.train import loop


def turn(work: Path, seconds: float = 600.0) -> Turn:
    work.mkdir(parents=True, exist_ok=True)
    out = work / "out"
    out.mkdir(exist_ok=True)
    place = Place(torch.device("cpu"), True, work, {"out": str(out)})
    return Turn(place, time.monotonic() + seconds, lambda result: None, {}, {})


class Killed(Exception):
    pass


@pytest.mark.slow
def test_training_goes_on_from_what_came_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the last network: the next command has the finished ones, and their bytes."""
    first, second, whole = (turn(tmp_path / name) for name in ("first", "second", "whole"))
    device_cifar.plan(whole)
    device_cifar.train(whole)
    (first.place.work / "plan.json").write_text((whole.place.work / "plan.json").read_text())
    keep = loop._keep

    def kill(parts: Any, generator: Any, step: Any, epoch: int, loss: float) -> None:
        if step.name == "selector" and epoch == 2:
            raise Killed
        keep(parts, generator, step, epoch, loss)

    monkeypatch.setattr(loop, "_keep", kill)
    with pytest.raises(Killed):
        device_cifar.train(first)
    monkeypatch.setattr(loop, "_keep", keep)
    states = device_cifar.save_states(first)
    assert "selector" not in states["networks"]
    assert states["networks"].count("classifier@") == 3
    source = first.place.work / "out" / device_cifar.STATES
    assert states["bytes"] == source.stat().st_size < 3 * 2 * 275_000 + 200_000
    (second.place.work / device_cifar.STATES).write_bytes(source.read_bytes())
    assert set(device_cifar.read_data(second)) == {"train", "test"}

    trained = list[str]()

    def counted(*arguments: Any) -> None:
        trained.append(arguments[2].name)
        keep(*arguments)

    monkeypatch.setattr(loop, "_keep", counted)
    device_cifar.train(second)
    assert set(trained) == {"selector"}
    a, b = (load_bundle(t.place.work / device_cifar.BUNDLE) for t in (whole, second))
    for role, network in a.networks.items():
        if role != "selector":
            assert network.weights == b.networks[role].weights


def test_a_finished_bundle_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = turn(tmp_path / "first"), turn(tmp_path / "second")
    device_cifar.plan(first)
    digest = device_cifar.train(first)["digest"]
    made = first.place.work / "out" / device_cifar.TAR
    (second.place.work / device_cifar.TAR).write_bytes(made.read_bytes())
    monkeypatch.setattr(device_cifar, "run", None)
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "test.npz", x=images, y=np.array([0, 1]))  # and no images to train on
    second.place.options["data"] = str(tmp_path)  # type: ignore[index]
    assert set(device_cifar.read_data(second)) == {"test"}
    assert "nothing to train" in device_cifar.plan(second)
    assert device_cifar.train(second)["digest"] == digest


def test_a_plan_that_is_there_stays(tmp_path: Path) -> None:
    found = turn(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"epochs": 17}))
    assert device_cifar.plan(found) == {"epochs": 17}


@pytest.mark.slow
def test_only_whole_groups_of_images_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = turn(tmp_path)
    device_cifar.plan(found)
    device_cifar.train(found)
    monkeypatch.setattr(device_certify, "GROUP", 2)
    bundle = load_bundle(tmp_path / device_cifar.BUNDLE)
    data, ids = cifar_data.stand_in(6)
    whole = device_certify.certify_dual(bundle, data, ids, found)
    assert whole["images"] == 6
    assert set(whole["certified, percent"]) == {f"{r:g}" for r in device_certify.RADII}
    assert "Dual RS, fine-tuned (n=1e4)" in whole["published, percent"]
    assert [row.split(":")[0] for row in whole["radii"].split(",")] == [str(i) for i in ids]
    short = device_certify.certify_dual(bundle, data, ids, turn(tmp_path, seconds=0.0))
    assert short["images"] == 2
    assert whole["radii"].startswith(short["radii"])
    fixed = device_certify.certify_fixed(bundle, data, ids, found)
    assert list(fixed) == ["fixed 0.25", "fixed 0.5", "fixed 1"]


def test_images_of_a_folder(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "test_some.npz", x=x, y=np.array([3, 1, 9]), index=np.array([7, 5, 30]))
    files = []
    for image in (np.full((32, 32, 3), 200, np.uint8), np.zeros((32, 32, 3), np.uint8)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)]).astype(np.uint32)
    joined = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "train_jpeg.npz", jpeg=joined, offsets=offsets,
             labels=np.array([2, 8], np.uint8))  # fmt: skip
    test, ids = cifar_data.read(tmp_path, "test")
    assert (ids, test.labels.tolist()) == ([7, 5, 30], [3, 1, 9])
    assert np.array_equal(test.images, x)
    train, ids = cifar_data.read(tmp_path, "train")
    assert (ids, train.labels.tolist()) == ([0, 1], [2, 8])
    assert abs(train.images[0].astype(int) - 200).max() <= 2
    assert train.images[1].max() <= 2
    with pytest.raises(ArgumentError, match=r"data must be a folder with valid\*\.npz"):
        cifar_data.read(tmp_path, "valid")


def test_training_needs_what_it_builds_on(tmp_path: Path) -> None:
    items = {item.name: item for item in items_of(5, turn(tmp_path).place)}
    assert items["certified"].needs == ("train",)
    assert items["states"].unless == "train"
