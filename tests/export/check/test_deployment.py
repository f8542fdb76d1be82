"""The check of an export passes what is right and catches each thing that can be wrong."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.export.check.deployment import Difference, check_deployment, compare_certificates
from dualsmooth.export.check.finding import Finding, table
from dualsmooth.export.deployment import read_deployment
from tests.conftest import Command
from tests.engine.conftest import CERTIFICATE

IMAGES = load_images("digits").images[:4]


def check(folder: Path, bundle: Bundle) -> dict[str, Finding]:
    found = check_deployment(read_deployment(folder), bundle, IMAGES, threads=1)
    return {finding.name: finding for finding in found}


def test_a_faithful_export_passes(deployed: Path, wavering: Bundle) -> None:
    found = check(deployed, wavering)
    assert [*found] == [
        "noise of classifier", "noise of selector", "dual predictor", "votes", "certificates",
    ]  # fmt: skip
    assert all(finding.passed for finding in found.values()), table([*found.values()])
    assert "98,304 of 98,304 words equal" in found["noise of selector"].text
    assert found["certificates"].text.startswith("4 of 4 equal")


def fewer_rounds(model: onnx.ModelProto) -> None:
    """Philox with the last round's words taken from other lanes."""
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    body = helper.get_node_attr_value(loop, "body")
    word = next(node for node in body.node if node.output[0].endswith("word1"))
    word.op_type = "BitwiseOr"


def other_weights(model: onnx.ModelProto) -> None:
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    body = helper.get_node_attr_value(loop, "body")
    weights = next(c for c in body.initializer if c.name.endswith("head.3.bias"))
    values = numpy_helper.to_array(weights) + np.array([0.1] + [0.0] * 9, np.float32)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))


@pytest.mark.parametrize(
    ("file", "change", "failing"),
    [
        ("classifier.votes.onnx", fewer_rounds, "noise of classifier"),
        ("classifier.votes.onnx", other_weights, "votes"),
        ("classifier.votes.onnx", other_weights, "dual predictor"),
    ],
    ids=["words", "votes", "predictor"],
)
def test_what_is_wrong_is_caught(
    deployed: Path,
    wavering: Bundle,
    tmp_path: Path,
    sealed: Callable[[Path], None],
    file: str,
    change: Callable[[onnx.ModelProto], None],
    failing: str,
) -> None:
    shutil.copytree(deployed, tmp_path / "copy")
    model = onnx.load(tmp_path / "copy" / file)
    change(model)
    (tmp_path / "copy" / file).write_bytes(model.SerializeToString())
    sealed(tmp_path / "copy")
    assert not check(tmp_path / "copy", wavering)[failing].passed


def test_votes_that_rounding_may_decide_are_explained(
    deployed: Path,
    wavering: Bundle,
    tmp_path: Path,
    sealed: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a tolerance as large as the change of weights, every vote that moved has a close gap."""
    monkeypatch.setattr("dualsmooth.export.check.deployment.GAP", 0.2)
    shutil.copytree(deployed, tmp_path / "copy")
    path = tmp_path / "copy" / "classifier.votes.onnx"
    model = onnx.load(path)
    other_weights(model)
    path.write_bytes(model.SerializeToString())
    sealed(tmp_path / "copy")
    found = check(tmp_path / "copy", wavering)["votes"]
    assert found.passed
    assert "moved in" in found.text


@pytest.mark.parametrize(
    ("change", "difference", "passed", "text"),
    [
        ({}, Difference(), True, "1 of 1 equal, 0 smaller, 0 larger"),
        ({"radius": 0.2}, Difference(), True, "0 of 1 equal, 1 smaller, 0 larger"),
        ({"predicted": None, "radius": 0.0}, Difference(), True, "1 smaller"),
        ({"radius": 0.4}, Difference(), False, "1 unexplained"),
        ({"radius": 0.4}, Difference(1, 2, 2), True, "1 larger by votes moved"),
        ({"radius": 0.4}, Difference(1, 3, 2), False, "1 unexplained"),
        ({"predicted": 4, "radius": 0.2}, Difference(), False, "1 unexplained"),
    ],
    ids=["equal", "smaller", "abstains", "larger", "explained", "too many", "other class"],
)
def test_certificates_may_be_smaller_or_explained(
    change: dict[str, Any], difference: Difference, passed: bool, text: str
) -> None:
    ours = dataclasses.replace(CERTIFICATE, radius=0.3)
    theirs = dataclasses.replace(ours, **change)
    found = compare_certificates([ours], [theirs], [difference])
    assert (found.passed, text in found.text) == (passed, True)


@pytest.fixture
def run(command: Command) -> Command:
    return partial(command, "export")


@pytest.fixture
def saved(wavering: Bundle, tmp_path: Path) -> Path:
    """A bundle folder of the wavering networks."""
    save_bundle(wavering, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_command_prints_the_table(run: Command, saved: Path, tmp_path: Path) -> None:
    code, out, err = run(
        saved, "--out", tmp_path / "out", "--check", "--images", 3, "--n", 60, "--threads", 1,
        "--selector-rule", "plurality",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "certificates         ok      3 of 3 equal" in out
    assert read_deployment(tmp_path / "out").terms.selector_rule == "plurality"


def test_the_command_quantises(run: Command, saved: Path, tmp_path: Path) -> None:
    code, out, err = run(
        saved, "--out", tmp_path / "out", "--int8", "--calibration-images", 16, "--check",
        "--images", 2, "--n", 60, "--threads", 1,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "int8 certificates    ok      2 of 2 equal a recount's" in out
    assert read_deployment(tmp_path / "out").precision == "int8"


def test_a_failed_check_is_a_finding(
    run: Command, saved: Path, deployed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dualsmooth.export.write.export_bundle", lambda *_, **__: read_deployment(deployed)
    )
    monkeypatch.setattr(
        "dualsmooth.export.check.deployment.check_noise",
        lambda *_: Finding("noise", False, "wrong words"),
    )
    code, out, _ = run(saved, "--out", tmp_path / "out", "--check", "--images", 1, "--n", 20)
    assert code == 1
    assert "noise           FAILED  wrong words" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "fixed", "--sigma", 0.3), "sigma must be one of the levels trained for"),
        (("--sigma", 0.25, "--method", "dual"), "sigma belongs to --method fixed"),
        (("--alpha", 2), "alpha must be in (0, 1)"),
        (("--n", 0), "n must be"),
        (("--batch-size", 0), "batch_size must be an integer >= 1"),
        (("--check", "--data", "npz:none.npz"), "none.npz"),
        (("--calibration", "digits:train"), "calibration belongs to --int8"),
        (("--int8", "--calibration", "npz:none.npz"), "none.npz"),
        (("--int8", "--calibration", "dgits"), "calibration must start with a known kind"),
        (("--int8", "--calibration-images", 0), "calibration_images must be an integer >= 1"),
        (("--check", "--images", 0), "images must be an integer >= 1"),
    ],
    ids=str,
)
def test_bad_usage_is_one_line_and_writes_nothing(
    run: Command, saved: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    code, _, err = run(saved, "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
