"""What three users do, from an installed wheel beside torchvision, timm and transformers.

Run in an empty folder; `tests/test_users.py` does. No hub is reached: weights are made here.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import save_file

import dualsmooth as ds
from dualsmooth.engine.models.registry import create

BIN = Path(sys.executable).with_name("dualsmooth")
VOTES = ("--n0", "10", "--n", "100")


def command(*words: object, code: int = 0) -> str:
    done = subprocess.run([BIN, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout


def photos() -> str:
    """JPEGs as cameras and scanners leave them: any size, turned, grey, for printers."""
    random = np.random.default_rng(0)
    for index, (mode, size) in enumerate(
        [("RGB", (640, 480)), ("L", (200, 300)), ("CMYK", (220, 180)), ("RGB", (161, 499))]
    ):
        place = Path("photos", ("cat", "dog")[index % 2])
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
        turned = Image.Exif()
        turned[0x0112] = 6 if index == 0 else 1
        small.resize(size).convert(mode).save(place / f"{index}.jpg", exif=turned)
    return "folder:photos"


def researcher() -> None:
    """A checkpoint in Cohen et al.'s layout, their log beside a run, an audit of the whole run."""
    torch.manual_seed(0)
    network = create("cifar_resnet20", {"num_classes": 10}).eval()
    state = {f"1.module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"arch": "cifar_resnet20", "epoch": 90, "state_dict": state}, "noise.pth.tar")
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.savez("cifar.npz", images=pixels, labels=np.arange(3))
    words = ("noise.pth.tar", "--data", "npz:cifar.npz", "--sigma", 0.25, *VOTES)
    command("certify", *words, "--out", "cohen")
    lines = ("idx label predict radius correct time", "0 0 0 0.5 1 0:00:01", "1 1 -1 0 0 0:00:01")
    Path("published.tsv").write_text("".join(f"{line}\n".replace(" ", "\t") for line in lines))
    tables = json.loads(command("report", "cohen", "published.tsv", "--json"))
    assert [t["images"] for t in tables] == [3, 2]
    assert "clean" in command("audit", "cohen", "--from-run", "--replay", "1.0")


def practitioner() -> None:
    """The same folder of photos for timm, transformers, torchvision and ONNX."""
    data = photos()
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), "timm.safetensors")
    words = ("--data", data, "--preprocess", "auto", "--sigma", 0.5, *VOTES)
    command("certify", "timm:test_resnet:timm.safetensors", *words, "--out", "timm")
    assert "clean" in command("audit", "timm", "--from-run", "--replay")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, id2label={0: "dog", 1: "cat"}, label2id={"dog": 0, "cat": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained("vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("vit")
    command("certify", "hf:vit", *words, "--out", "hf")
    assert [c.label for c in ds.Certificates.load("hf")] == [1, 1, 0, 0]
    answers = json.loads(command("predict", "hf:vit", *words[:-4], "--n", 100, "--json"))
    assert {answer["name"] for answer in answers} <= {"cat", "dog", ""}
    network = torchvision.models.resnet18(num_classes=2).eval()
    as_dataset = torchvision.datasets.ImageFolder("photos", torchvision.transforms.Compose([
        torchvision.transforms.Resize(40), torchvision.transforms.CenterCrop(32),
        torchvision.transforms.ToTensor(),
    ]))  # fmt: skip
    found = ds.certify(network, as_dataset, sigma=0.25, n=100, progress=False)
    assert [c.label for c in found] == [0, 0, 1, 1]
    torch.onnx.export(network, (torch.zeros(2, 3, 32, 32),), "net.onnx", dynamo=True,
                      dynamic_shapes=({0: torch.export.Dim("n")},))  # fmt: skip
    sizes = ("--data", data, "--resize", 40, "--crop", 32, "--max", 2, "--sigma", 0.25, *VOTES)
    command("certify", "net.onnx", *sizes, "--out", "onnx")
    assert len(ds.Certificates.load("onnx")) == 2


def team_lead() -> None:
    """From a notebook: one call, a table, a curve, a report, and back from the run folder."""
    digits = ds.load_images("digits")
    found = ds.certify("digits-dual", digits.images[:8], labels=digits.labels[:8].tolist(), n=1_000)
    assert found.summary().certified[0.0] >= 7
    assert len(found.to_pandas()) == 8
    assert found.curve().accuracy[0] >= 7 / 8
    assert "<table>" in found._repr_html_()
    assert {path.name for path in found.report("report")} >= {"report.html", "summary.md"}
    again = ds.Certificates.load(found.save("runs/eight"))
    assert again == found
    command("audit", "runs/eight", code=4)
    answer = ds.predict("digits-dual", digits.images[:8])
    assert [a.predicted for a in answer] == [c.predicted for c in found]


if __name__ == "__main__":
    for user in (researcher, practitioner, team_lead):
        began = time.perf_counter()
        user()
        print(f"{user.__name__}: {time.perf_counter() - began:.0f} s", flush=True)
