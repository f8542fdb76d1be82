"""Classifiers of transformers: against transformers itself, where it can be imported.

`tests/test_users.py` runs these in an environment that has it.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dualsmooth.engine.cli.app import app
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.results.predict import predict

NAMES = ("cat", "dog", "owl")
SIDE = 16
SCALE = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
IMAGES = np.random.default_rng(3).random((4, SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer as `save_pretrained` writes it, with its image processor."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("hf") / "tiny-vit"
    torch.manual_seed(1)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=SIDE, patch_size=8, id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).eval().save_pretrained(path)
    sizes = {"size": {"height": SIDE, "width": SIDE}, "resample": 2}
    (path / "preprocessor_config.json").write_text(json.dumps(SCALE | sizes))
    return path


def copied(folder: Path, place: Path, **changes: Any) -> Path:
    """The model with another configuration."""
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | changes))
    return place


def test_logits_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    import transformers

    bundle = load_bundle(f"hf:{folder}")
    assert (bundle.name, bundle.input_shape) == ("hf-tiny-vit", (SIDE, SIDE, 3))
    assert (bundle.classes, bundle.num_classes) == (NAMES, 3)
    assert bundle.preparation == {"resize": [SIDE, SIDE], "crop": 0, "interpolation": "bilinear"}
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(SCALE[key]).view(1, 3, 1, 1) for key in SCALE)
    with torch.no_grad():
        expected = theirs(pixel_values=(x - mean) / std).logits
        torch.testing.assert_close(bundle.build("classifier")(x), expected)
    save_bundle(bundle, tmp_path / "saved")
    again = load_bundle(tmp_path / "saved")
    assert (again.digest, again.classes) == (bundle.digest, NAMES)
    votes = [predict(b, IMAGES, sigma=0.25, n=100) for b in (bundle, again)]
    assert votes[0] == votes[1]
    module = Bundle.from_classifier(theirs, num_classes=3, input_shape=(SIDE, SIDE, 3))
    assert len(predict(module, IMAGES, sigma=0.25, n=100)) == len(IMAGES)


TINY: dict[str, Any] = {
    "Deit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8},
    "Levit": {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2] * 3,
              "depths": [1] * 3, "key_dim": [8] * 3},
    "Perceiver": {"num_latents": 4, "d_latents": 16, "d_model": 512, "num_blocks": 1,
                  "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
                  "num_cross_attention_heads": 2, "image_size": 56},
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
        *("LevitForImageClassificationWithTeacher", "PerceiverForImageClassificationLearned"),
    ],
)
def test_models_that_transformers_has_several_classes_for(name: str, tmp_path: Path) -> None:
    """The configuration says which of them the weights are of."""
    transformers = pytest.importorskip("transformers")
    kind = name.partition("For")[0]
    config = getattr(transformers, f"{kind}Config")(
        **{"image_size": SIDE, **TINY[kind.capitalize()]}, num_labels=3
    )
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path / "m")
    side = config.image_size
    sizes = {"size": {"height": side, "width": side}, "resample": 2}
    scale = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    (tmp_path / "m/preprocessor_config.json").write_text(json.dumps(sizes | scale))
    bundle = load_bundle(f"hf:{tmp_path / 'm'}")
    x = torch.rand(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(bundle.build("classifier")(x), theirs(pixel_values=x).logits)
    save_bundle(bundle, tmp_path / "saved")
    assert load_bundle(tmp_path / "saved").digest == bundle.digest


def test_published_models_come_from_the_cache_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub: Any = ModuleType("huggingface_hub")
    there: set[str] = set()
    hub.try_to_load_from_cache = lambda _, file: str(folder / file) if file in there else None
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ArgumentError, match="must name a folder or cached model with config"):
        load_bundle("hf:someone/tiny")
    there |= {path.name for path in folder.iterdir()}
    bundle = load_bundle("hf:someone/tiny")
    assert (bundle.name, bundle.digest) == ("hf-tiny", load_bundle(f"hf:{folder}").digest)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "code": ({"auto_map": {"AutoModel": "model.Evil"}}, "must name no code or weights elsewhere"),
    "weights": ({"use_timm_backbone": True}, "must name no code or weights elsewhere"),
    "inner": ({"inner": {"backbone": "resnet18"}}, "must name no code or weights elsewhere"),
    "quantized": ({"quantization_config": {"quant_method": "x"}}, "no code or weights elsewhere"),
    "timm": ({"model_type": "timm_wrapper"}, "timm:NAME reads networks of timm"),
    "text": ({"model_type": "bert"}, "must be of a kind that transformers classifies images"),
    "endless": ({"num_hidden_layers": 10**9}, "must have at most 256 layers"),
    "wide": ({"hidden_size": 1 << 20}, "must hold the tensors of .* numbers for"),
    "heads": ({"num_attention_heads": 3}, "must hold the tensors|must be one of a vit"),
    "labels": ({"id2label": {"1": "cat"}}, "id2label must name the classes 0, 1"),
    "more labels": ({"id2label": {str(i): "x" for i in range(5)}}, "must hold the tensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_configurations_that_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises((ArgumentError, FileError), match=message) as caught:
        load_bundle(f"hf:{copied(folder, tmp_path / 'bad', **changes)}")
    assert "\n" not in str(caught.value)


def test_a_bundle_folder_cannot_make_transformers_fetch(folder: Path, tmp_path: Path) -> None:
    save_bundle(load_bundle(f"hf:{folder}"), tmp_path / "saved")
    index = tmp_path / "saved/bundle.json"
    index.write_text(index.read_text().replace('"model_type": "vit"', '"auto_map": {"A": "b.C"}'))
    with pytest.raises(FileError, match="must be of a kind that transformers classifies images"):
        load_bundle(tmp_path / "saved").build("classifier")


def test_tensors_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    place = copied(folder, tmp_path / "bad")
    state = load_file(folder / "model.safetensors")
    for changed, message in (
        ({k: v for k, v in state.items() if k != "classifier.bias"}, "missing classifier.bias"),
        (state | {"more": torch.zeros(1)}, "unexpected more"),
        (state | {"classifier.bias": torch.zeros(4)}, "classifier.bias"),
        (state | {"classifier.bias": torch.full((3,), torch.nan)}, "must be finite"),
    ):
        save_file(changed, place / "model.safetensors")
        with pytest.raises(FileError, match=message):
            load_bundle(f"hf:{place}")
    (place / "model.safetensors").unlink()
    torch.save(state, place / "pytorch_model.bin")
    assert load_bundle(f"hf:{place}").digest == load_bundle(f"hf:{folder}").digest
    (place / "preprocessor_config.json").unlink()
    with pytest.raises(FileError, match="give --mean and --std"):
        load_bundle(f"hf:{place}")
    assert load_bundle(f"hf:{place}", mean=[0.5], std=[0.5]).input_shape == (SIDE, SIDE, 3)


def test_names_of_classes_are_shown_and_order_folders(folder: Path, tmp_path: Path) -> None:
    for index, name in enumerate(("owl", "cat")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        pixels = Image.fromarray((IMAGES[index] * 255).astype(np.uint8)).resize((40, 30))
        pixels.save(tmp_path / "photos" / name / "one.jpg")
    run, data = tmp_path / "run", f"folder:{tmp_path / 'photos'}"
    words = [f"hf:{folder}", "--data", data, "--preprocess", "auto", "--sigma", "0.25"]
    done = CliRunner().invoke(app, ["certify", *words, "--n", "100", "--out", str(run)])
    assert done.exit_code == 0, done.output
    configuration = json.loads((run / "run.json").read_text())["configuration"]
    assert configuration["classes"] == list(NAMES)
    lines = (run / "certificates.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == [0, 2]
    done = CliRunner().invoke(app, ["predict", *words, "--n", "100", "--json"])
    for answer in json.loads(done.output):
        assert answer["name"] == ("" if (i := answer["predicted"]) is None else NAMES[i])
    done = CliRunner().invoke(app, ["audit", str(run), "--from-run", "--replay"])
    assert done.exit_code == 0, done.output


def test_without_transformers_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("transformers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ArgumentError, match=r"needs huggingface_hub for hf:NAME.*pip install"):
        load_bundle("hf:someone/tiny")
