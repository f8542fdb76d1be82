"""The programs of export/README.md print the votes it documents."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.export.deployment import Terms
from dualsmooth.export.write import export_bundle

FOLDER = Path(__file__).parents[2] / "export"
MOVED = 3
"""Votes that rounding on another processor may give to another class."""


@pytest.mark.parametrize("words", [(), ("nowhere",)], ids=str)
def test_what_the_program_needs_is_said(words: tuple[str, ...]) -> None:
    command = [sys.executable, str(FOLDER / "examples" / "predict.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("python predict.py DEPLOYMENT: ")
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "deployed"
    export_bundle(load_bundle("digits-dual"), folder, Terms("dual"))
    return folder


def printed(*command: object, cwd: Path) -> dict[str, list[float]]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True, cwd=cwd
    )
    return numbers(done.stdout)


def numbers(text: str) -> dict[str, list[float]]:
    rows = (line.split() for line in text.strip().splitlines())
    return {name: [float(value) for value in values] for name, *values in rows}


def documented() -> dict[str, list[float]]:
    (block,) = re.findall(r"```text\n(selector.*?)```", (FOLDER / "README.md").read_text(), re.S)
    return numbers(block)


def same(found: dict[str, list[float]]) -> bool:
    expected = documented()
    moved = [np.abs(np.subtract(found[k], expected[k])).sum() / 2 for k in ("selector", "votes")]
    return found["sigma"] == expected["sigma"] and max(moved) <= MOVED


@pytest.mark.slow
def test_the_image_is_a_test_digit() -> None:
    digit, images = (
        json.loads((FOLDER / "examples" / "digit.json").read_text()),
        load_images("digits"),
    )
    matches = (images.images.reshape(540, 64) == digit["pixels"]).all(axis=1)
    assert [int(label) for label in images.labels[matches]] == [digit["label"]]


@pytest.mark.slow
def test_python(digits: Path) -> None:
    found = printed(sys.executable, FOLDER / "examples" / "predict.py", digits, cwd=digits)
    assert same(found)
    assert not same(found | {"votes": found["votes"][::-1]})


@pytest.mark.slow
def test_javascript(digits: Path, tmp_path: Path) -> None:
    """With onnxruntime-node from npm."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    for path in (FOLDER / "examples").iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "onnxruntime-node"]
    if subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=300).returncode:
        pytest.skip("npm cannot fetch onnxruntime-node")
    assert same(printed("node", tmp_path / "predict.mjs", digits, cwd=tmp_path))
