"""What is given in the place of something else is called what it is, with a hint that works."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import dualsmooth as ds
from dualsmooth.engine.data.kinds import IMAGES, MODELS
from dualsmooth.engine.errors import ArgumentError, DualSmoothError, FileError
from dualsmooth.engine.models.sources.folder import read_bundle, save_bundle

BUNDLE = ds.load_bundle("digits-dual")
FIRST = "a model goes first"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file or folder of each kind, by the name that it should have or by another."""
    place, module = tmp_path_factory.mktemp("kinds"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    pixels, weights = np.zeros((2, 8, 8, 1), np.uint8), dict(module.eval().state_dict())
    np.savez(place / "x.npz", x=pixels)
    np.save(place / "x.npy", pixels)
    (place / "photos" / "cat").mkdir(parents=True)
    for name in ("i.png", "photos/cat/i.png"):
        Image.fromarray(pixels[0, :, :, 0]).save(place / name)
    shutil.copy(place / "i.png", place / "i.pt2")
    shutil.copy(place / "x.npz", place / "x.onnx")
    for name in ("m.pth", "m.pt2", "m.onnx"):
        torch.save(module, place / name)
    torch.save(weights, place / "w.pt2", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(module), place / "s.pt2")
    torch.export.save(torch.export.export(module, (torch.zeros(2, 1, 8, 8),)), place / "p.pt2")
    shutil.copy(place / "p.pt2", place / "p.pth")
    save_file(weights, place / "t.pt2")
    (place / "k.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (place / "empty.onnx").touch()
    save_bundle(BUNDLE, place / "bundle")
    return place


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.npz", "an archive of NumPy arrays"), ("npz:x.npz", "an archive of NumPy arrays"),
        ("x.onnx", "an archive of NumPy arrays"), ("x.npy", "a NumPy array"), ("i.png", "an image"),
        ("i.pt2", "an image"), ("photos", "a folder of images"),
        ("folder:photos", "a folder of images"), ("m.pt2", "a file of torch.save"),
        ("m.onnx", "a file of torch.save"), ("w.pt2", "a file of torch.save"),
        ("s.pt2", "TorchScript"), ("p.pth", "a program of torch.export"),
        ("t.pt2", "weights in safetensors"), ("k.h5", "a file of Keras"),
    ],
)  # fmt: skip
def test_where_a_model_is_asked_for(
    files: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(files)
    for trust in (False, True):
        with pytest.raises(DualSmoothError) as caught:
            ds.certify(name, "digits", sigma=0.25)
        assert f"{kind} ({(IMAGES | MODELS)[kind]})" in str(caught.value)
        assert "trust" not in str(caught.value)
        with pytest.raises(DualSmoothError, match=kind):
            ds.load_bundle(name, trust=trust)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("npz:x.npy", "numpy.savez("), ("npz:i.png", "predict MODEL IMAGE"),
        ("npz:photos", "--data folder:DIR"), ("folder:x.npz", "--data npz:FILE"),
        ("idx:x.npz", "--data npz:FILE"), ("i.png", "predict MODEL IMAGE"),
        ("x.npz", "did you mean npz:x.npz"), ("photos", "did you mean folder:photos"),
        ("m.pth", FIRST), ("npz:m.pth", FIRST), ("npz:p.pt2", FIRST), ("folder:bundle", FIRST),
        ("npz:t.pt2", FIRST), ("empty.onnx", FIRST),
    ],
)  # fmt: skip
def test_where_images_are_asked_for(
    files: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(DualSmoothError) as caught:
        ds.certify(BUNDLE, name)
    assert said in str(caught.value)


def test_a_pipe_is_not_opened_to_see_what_it_is(files: Path) -> None:
    os.mkfifo(files / "pipe.pt2")
    with pytest.raises(FileError, match=r"pipe\.pt2: must be"):
        ds.load_bundle(files / "pipe.pt2")


@pytest.mark.parametrize(
    "name", ["m.pth", "p.pt2", "x.npz", "x.npy", "npz:x.npz", "digits", "bundle"]
)
def test_where_image_files_are_asked_for(
    files: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any], name: str
) -> None:
    monkeypatch.chdir(files)
    code, _, error = command("predict", "digits-dual", name)
    hints = ("--data ", "npz:x.npz", FIRST, "name the files in it")
    assert (code, any(hint in error for hint in hints)) == (2, True)


@pytest.mark.parametrize(
    "wrong",
    [BUNDLE, ds.FixedSmoothing(BUNDLE, 0.25), nn.Linear(1, 1), [nn.Linear(1, 1)], np.zeros(2, "O")],
)
def test_a_model_is_no_array_of_images(wrong: Any) -> None:
    models: list[Any] = [BUNDLE, np.zeros((2, 8, 8, 1), np.uint8)]
    for model in models:
        with pytest.raises(ArgumentError, match=r"^(images|model) must ") as caught:
            ds.certify(model, wrong, sigma=0.25)
        assert isinstance(wrong, np.ndarray) or "(a model goes first)" in str(caught.value)


@pytest.mark.parametrize("wrong", [np.zeros(3), "model.pt2", nn.Linear, read_bundle, None])
def test_what_is_no_module_is_named(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^module must be a module of PyTorch; received"):
        ds.Bundle.from_classifier(wrong, num_classes=10, input_shape=(8, 8, 1))
