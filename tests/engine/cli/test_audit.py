"""``dualsmooth audit`` as a user meets it: output and exit codes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dualsmooth as ds
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.folder import read_bundle, save_bundle
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.runs.log import read_log
from tests.test_package import NO_TORCH, python

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def certified(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    command = [sys.executable, "-m", "dualsmooth", "certify", str(tiny_bundle)]
    options = ["--data", "digits", "--n0", "10", "--n", "100", "--max", "6", "--out", str(folder)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return folder


def test_a_clean_run(run: Run, certified: Path, tiny_bundle: Path) -> None:
    code, out, _ = run("audit", certified)
    assert code == 0
    assert "data digits: images and labels have the recorded digest" in out
    assert "note   bundle not at hand" in out
    assert out.endswith(": clean\n")
    code, out, _ = run("audit", certified, "--bundle", tiny_bundle, "--replay", 0.5, "--choice", 1)
    assert code == 0
    assert "has the recorded digest" in out
    assert "replay: 3 of 6 certificates, choice seed 1" in out


def test_a_forged_run(run: Run, certified: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(certified, tmp_path / "copy")
    log = copy / "certificates.jsonl"
    log.write_text(log.read_text().replace('"n": 100', '"n": 101'))
    code, out, _ = run("audit", copy)
    assert code == 1
    assert "FOUND  certificates.jsonl line 1: checksum does not match" in out
    (copy / "run.json").write_text("{}")
    code, out, _ = run("audit", copy)
    assert code == 1
    assert "FOUND  run.json: " in out


def test_the_order_of_classes_is_no_word_of_the_run_alone(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Whoever writes a run could choose the order by which most images count as correct."""
    digits, photos, order = load_images("digits"), tmp_path / "photos", tmp_path / "order.txt"
    names = [f"digit {number}" for number in range(10)]
    for number, name in enumerate(names):
        (photos / name).mkdir(parents=True)
        place = digits.labels.tolist().index(number)
        Image.fromarray(digits.images[place, :, :, 0]).save(photos / name / "one.png")
    order.write_text("\n".join(names[::-1]))
    seen = "--data", f"folder:{photos}"
    few = "--n0", 5, "--n", 20, "--method", "fixed", "--sigma", 0.25, "--out", tmp_path / "run"
    assert run("certify", tiny_bundle, *seen, *few, "--classes", order)[0] == 0
    code, out, _ = run("audit", tmp_path / "run", *seen)
    assert code == 4
    assert "TRUST  names and numbers of the classes" in out
    assert run("audit", tmp_path / "run", *seen, "--classes", order)[0] == 0
    order.write_text("\n".join(names))
    code, out, _ = run("audit", tmp_path / "run", *seen, "--classes", order)
    assert code == 1
    assert "other labels, first at image" in out
    assert run("certify", tiny_bundle, *seen, *few, "--fresh")[0] == 0
    assert run("audit", tmp_path / "run", *seen)[0] == 0


def test_a_bundle_that_is_called_as_a_bundled_one_is_no_forgery(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    """As one that the recipe of the bundled one trained on other images."""
    save_bundle(dataclasses.replace(read_bundle(tiny_bundle), name="digits-dual"), tmp_path / "own")
    few = "--data", "digits", "--max", 2, "--n0", 5, "--n", 20, "--out", tmp_path / "run"
    assert run("certify", tmp_path / "own", *few)[0] == 0
    code, out, _ = run("audit", tmp_path / "run")
    assert code == 0
    assert "note   bundle not at hand" in out
    code, out, _ = run("audit", tmp_path / "run", "--from-run", "--replay", 0.5)
    assert code == 0
    assert "bundle digits-dual: has the recorded digest" in out
    (tmp_path / "own").rename("digits-dual")  # in a folder that no later audit is run in
    assert run("certify", "digits-dual", *few, "--fresh")[0] == 0
    assert run("audit", tmp_path / "run")[0] == 0


@pytest.mark.parametrize(
    ("changed", "given"),
    [
        ({"images": np.zeros((3, 8, 8, 1), np.uint8)}, {}),
        ({"labels": np.array([7, 8, 9])}, {}),
        ({"ids": np.array([4, 5, 6])}, {}),
        ({}, {"labels": [7, 8, 9]}),
        ({}, {"image_ids": [4, 5, 6]}),
    ],
    ids=["images", "labels of a set", "ids of a set", "labels", "ids"],
)
def test_what_replace_makes_is_not_what_was_read(
    run: Run, tmp_path: Path, changed: dict[str, Any], given: dict[str, Any]
) -> None:
    """Nor is a bundle with the networks of another one."""
    np.savez(tmp_path / "x.npz", x=load_images("digits").images[:3], y=np.arange(3))
    images = dataclasses.replace(ds.load_images(f"npz:{tmp_path}/x.npz"), **changed)
    known = ds.load_bundle("digits-dual")
    experts = {"classifier": known.networks["classifier@0.25"]}
    bundle = dataclasses.replace(known, networks=experts, sigmas=(), tau=None)
    found = ds.certify(bundle, images, sigma=0.25, n0=2, n=5, progress=False, **given)
    code, out, _ = run("audit", found.save(tmp_path / "run"), "--from-run")
    assert (code, "TRUST  data memory not at hand" in out) == (4, True)
    assert "note   bundle not at hand" in out


def test_a_selector_is_told_what_it_was_told_in_the_run(run: Run, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"in_channels": 2, "num_classes": 1, "widths": [4], "hidden": 8}
    kwargs = {"architecture": "small_convnet", "kwargs": kwargs, "levels": [0.1, 0.2]}
    kwargs["target"] = 0.25
    known = ds.load_bundle("digits-dual")
    selector = network_from_module(
        create("ordered_levels", kwargs).eval(), "ordered_levels", kwargs
    )
    networks = {"selector": selector, "classifier": known.networks["classifier@0.25"]}
    save_bundle(ds.Bundle("told", (8, 8, 1), 10, (0.1, 0.2), 0.5, networks), tmp_path / "told")
    few = "--data", "digits", "--max", 2, "--n0", 5, "--n", 20, "--out", "run"
    assert run("certify", "told", "--method", "variational", "--target-sigma", 0.5, *few)[0] == 0
    for words in (("--bundle", "told"), ("--from-run", "--replay", 1)):
        code, out, _ = run("audit", "run", *words)
        assert (code, "bundle told: has the recorded digest" in out) == (0, True)


def test_another_bundle_or_other_data(run: Run, certified: Path) -> None:
    code, out, _ = run("audit", certified, "--bundle", "digits-dual")
    assert (code, "FOUND  bundle digits-dual: has another digest" in out) == (1, True)
    code, out, _ = run("audit", certified, "--data", "digits:train")
    assert (code, "other images than those recorded" in out) == (1, True)


def test_bad_usage_is_one_line_and_code_2(run: Run, certified: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tmp_path / "absent",), "must be a run folder"),
        ((certified, "--replay", 0.5), "bundle is required by --replay"),
        ((certified, "--bundle", "digits-dual", "--data", "mnist"), "received mnist"),
        ((certified, "--bundle", "nowhere"), "bundle must be"),
        ((certified, "--from-run", "--replay", "--choice", -1), "choice must be an integer in [0"),
        ((certified / "run.json",), f"received a file (or {certified})"),
        ((certified, "--from-run", "--replay", 2), "replay must be in (0, 1]; received 2.0"),
        ((certified, "--references", "digits"), "references belongs to runs of semielastic;"),
        ((certified, "--references", "dgits"), "references must start with a known kind; received"),
        ((certified, "--memory", "m"), "memory belongs to runs of insta with region memory;"),
        ((certified, "--mean", "0.5"), "mean belongs to --bundle; received '0.5'"),
    ):
        code, out, err = run("audit", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_an_audit_without_replay_needs_no_torch(certified: Path) -> None:
    python(
        NO_TORCH + "from pathlib import Path\n"
        "from dualsmooth.engine.runs.audit import audit\n"
        "from dualsmooth.engine.data.spec import load_images\n"
        f"assert not audit(Path({str(certified)!r}), load_images('digits')).findings\n"
    )


def test_what_is_on_trust_has_its_own_exit_code(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    anchors, out = tmp_path / "anchors.npz", tmp_path / "run"
    Anchors(load_images("digits:train").images[:30], [0.12, 0.5] * 15).save(anchors)
    options = ("--data", "digits", "--n0", 10, "--n", 100, "--max", 4, "--out", out)
    assert run("certify", tiny_bundle, "--method", "insta", "--anchors", anchors, *options)[0] == 0
    code, printed, _ = run("audit", out)
    assert code == 4
    assert "TRUST  the noise level and the region of each image (--data, --anchors)" in printed
    assert printed.endswith("clean; 1 part taken on trust\n")
    code, printed, _ = run("audit", out, "--anchors", anchors)
    assert (code, printed.endswith(": clean\n")) == (0, True)
    other = tmp_path / "other.npz"
    Anchors(load_images("digits:train").images[:30], [0.5, 0.12] * 15).save(other)
    code, printed, _ = run("audit", out, "--anchors", other)
    assert (code, "anchors must be those of the run" in printed) == (1, True)
    assert run("audit", "n" * 300)[0] == 2


def test_a_replay_of_a_bundled_model_needs_no_more_words(run: Run) -> None:
    assert run("certify", "digits-dual", "--n", 100, "--max", 2, "--out", "run")[0] == 0
    for words in (("run", "--replay"), ("--replay", "run"), ("run", "--replay", "0.5")):
        code, out, _ = run("audit", *words)
        assert code == 0
        assert "replay: 1 of 2 certificates" in out


def test_the_bundle_and_the_images_of_a_run_are_found_where_that_is_allowed(
    run: Run, certified: Path, tiny_bundle: Path
) -> None:
    code, _, err = run("audit", certified, "--replay")
    assert (code, err.count("\n")) == (2, 1)
    assert f"bundle is required by --replay; received None (--bundle {tiny_bundle}, or" in err
    code, out, _ = run("audit", certified, "--from-run", "--replay")
    assert code == 0
    assert "bundle tiny: has the recorded digest" in out
    assert "replay: 1 of 6" in out


def test_what_a_run_names_counts_only_with_the_recorded_digest(
    run: Run, certified: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(certified, tmp_path / "copy")
    path = copied / "run.json"
    record = json.loads(path.read_text())
    for source, code, found in (
        ({"bundle": "digits-dual"}, 1, "bundle digits-dual: has another digest"),
        ({"bundle": str(tmp_path / "absent")}, 2, "bundle must be a folder"),
        ({"bundle": str(tiny_bundle), "mean": [0.5]}, 2, "mean must be left out"),
        ({"folder": "."}, 1, "FOUND  run.json: Source must have its fields"),
        (["digits-dual"], 1, "FOUND  run.json: Source must be an object"),
    ):
        path.write_text(json.dumps(record | {"source": source}))
        answer, *printed = run("audit", copied, "--from-run", "--replay")
        assert (answer, found in "".join(printed)) == (code, True)
        assert run("audit", copied)[0] == (1 if "run.json" in found else 0)


def test_images_of_a_run_are_found_and_a_network_is_normalized_as_it_was(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    module = read_bundle(tiny_bundle).build("classifier")
    shape = {"x": {0: torch.export.Dim("n")}}
    torch.export.save(
        torch.export.export(module, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shape),
        tmp_path / "c.pt2",
    )
    np.savez(tmp_path / "images.npz", x=load_images("digits").images[:3], y=np.arange(3))
    words = ("certify", "c.pt2", "--data", "npz:images.npz", "--sigma", 0.25, "--n", 100)
    assert run(*words, "--mean", "0.1", "--std", "0.5", "--out", "run")[0] == 0
    code, _, err = run("audit", "run", "--bundle", "c.pt2", "--replay")
    assert (code, err.count("\n")) == (1, 0)
    code, _, err = run("audit", "run", "--bundle", "c.pt2", "--mean", 0.1, "--std", 0.5, "--replay")
    assert (code, "data is required by --replay; received None (--data npz:images.npz" in err) == (
        2, True,
    )  # fmt: skip
    code, out, _ = run("audit", "run", "--from-run", "--replay", "1.0")
    assert code == 0
    assert "replay: 3 of 3" in out


def test_nothing_is_opened_because_a_run_names_it(
    run: Run, certified: Path, tmp_path: Path
) -> None:
    """Not even a folder with the name of a bundled model, or digits of somewhere."""
    copied = shutil.copytree(certified, tmp_path / "copy")
    record = json.loads((copied / "run.json").read_text())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "digits-dual").mkdir()
    for data, bundle in (
        (f"npz:{tmp_path}/pipe", "digits-dual"),
        (f"digits:{tmp_path}/pipe", str(tmp_path / "pipe")),
        (f"folder:{tmp_path}", f"{tmp_path}/pipe.onnx"),
    ):
        record["configuration"] |= {"data": data, "bundle": bundle}
        record["source"] = {"bundle": f"{tmp_path}/pipe.onnx"}
        covered = {key: record[key] for key in ("configuration", "machine")}
        (copied / "run.json").write_text(json.dumps(record | {"fingerprint": digest_of(covered)}))
        code, printed, _ = run("audit", copied)
        assert code == 2 or (code in (1, 4) and "images and labels (--data)" in printed)


@pytest.mark.parametrize("change", ["image outside", "another label"])
def test_resume_refuses_lines_of_another_run(
    run: Run, certified: Path, tiny_bundle: Path, tmp_path: Path, change: str
) -> None:
    copied = shutil.copytree(certified, tmp_path / "copy")
    lines = read_log(copied)
    if change == "image outside":
        lines[1] = dataclasses.replace(lines[1], image_id=77)
    else:
        lines[1] = dataclasses.replace(lines[1], label=(lines[1].label or 0) + 1)
    log = copied / "certificates.jsonl"
    log.write_text("".join(line.to_json() + "\n" for line in lines[:4]))
    before = log.read_bytes()
    options = ("--data", "digits", "--n0", 10, "--n", 100, "--max", 6, "--out", copied, "--resume")
    code, _, err = run("certify", tiny_bundle, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert "certificates.jsonl: must " in err
    assert log.read_bytes() == before
