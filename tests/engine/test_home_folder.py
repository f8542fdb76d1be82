"""``~`` is the home folder in every call that takes a path: no folder of that name is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualsmooth as ds
from dualsmooth.engine.adapters.robustbench import load_model
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.regions.anchors import Anchors, read_anchors
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.quantize.bundle import write_quantized
from dualsmooth.engine.quantize.calibration import Calibration
from dualsmooth.engine.report import write
from dualsmooth.engine.report.reading import read_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.train.run import train
from dualsmooth.export.deployment import Terms, read_deployment
from dualsmooth.export.write import export_bundle

IMAGES = np.zeros((1, 8, 8, 1), np.float32)
BUNDLE = ds.load_bundle("digits-dual")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Home, with a folder that holds what no reader takes; another folder is the current one."""
    (tmp_path / "home" / "taken").mkdir(parents=True)
    (tmp_path / "home" / "taken" / "certificates.jsonl").write_text("nothing\n")
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


REFUSED: dict[str, Callable[[str], Any]] = {
    "anchors read": read_anchors,
    "anchors saved": lambda path: Anchors(IMAGES, [0.25]).save(path),
    "bundle read": ds.load_bundle,
    "bundle saved": lambda path: save_bundle(BUNDLE, path),
    "certificates read": ds.Certificates.load,
    "deployment read": read_deployment,
    "deployment written": lambda path: export_bundle(BUNDLE, path, Terms(method="dual")),
    "log read": read_log,
    "memory": Memory,
    "quantized": lambda path: write_quantized(BUNDLE, Calibration(IMAGES), path),
    "run read": read_run,
    "trained": lambda path: train("gaussian", "digits", path),
}


IMAGES_AT = {"images read": lambda path: ds.load_images(f"folder:{path}")}


@pytest.mark.parametrize("call", [*REFUSED.values(), *IMAGES_AT.values()])
def test_an_error_names_the_folder_at_home(home: Path, call: Callable[[str], Any]) -> None:
    with pytest.raises(FileError, match=str(home / "taken")):
        call("~/taken")


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        *((call, "anchors|bundle|folder|memory|out|path|run") for call in REFUSED.values()),
        (ds.load_images, "data"),
        (ds.Certificates([]).save, "run"),
        (ds.Certificates([]).report, "folder"),
        (lambda path: ds.certify(BUNDLE, IMAGES, method="insta", anchors=path), "anchors"),
        (lambda path: ds.certify(BUNDLE, IMAGES, method="insta", region="memory", memory=path),
         "memory"),
        (lambda path: load_model("Standard", model_dir=path), "model_dir"),
    ],
)  # fmt: skip
def test_what_is_no_path_is_refused_by_the_name_of_its_argument(
    home: Path, call: Callable[[Any], Any], argument: str
) -> None:
    for wrong in (3, b"taken", [Path("taken")], ""):
        with pytest.raises(ArgumentError, match=rf"^({argument}) must .*; received "):
            call(wrong)
    assert not list(home.parent.joinpath("here").iterdir())


def test_certificates_are_written_at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "write_report", lambda *_, **__: ["summary.md"])
    found = ds.certify(BUNDLE, IMAGES, sigma=0.25, n=20, n0=5, device="cpu", precision="fp32")
    assert found.save("~/run") == home / "run"
    assert found.report("~/report") == [home / "report" / "summary.md"]
    assert not list(Path().iterdir())


def test_a_name_that_begins_so_in_this_folder_stays_itself(home: Path) -> None:
    Path("~").mkdir()
    found = ds.certify(BUNDLE, IMAGES, sigma=0.25, n=20, n0=5, device="cpu", precision="fp32")
    assert found.save("~/run") == home / "run"
    Path("~/own").mkdir()
    assert found.save("~/own") == Path("~/own")
