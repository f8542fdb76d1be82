"""Int8 deployments: base classifiers of their own, and float32 certificates through pairs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal
from onnx import numpy_helper

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.draws import Phase
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.onnx_session import make_session
from dualsmooth.engine.noise.stream import standard_normal
from dualsmooth.engine.quantize.calibration import Calibration
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.export.certifier import OnnxCertifier
from dualsmooth.export.check.deployment import check_deployment
from dualsmooth.export.check.finding import table
from dualsmooth.export.deployment import INDEX, Terms, read_deployment
from dualsmooth.export.feeds import vote_feeds
from dualsmooth.export.graph.nodes import PIXELS
from dualsmooth.export.write import export_bundle
from tests.export.check.test_deployment import other_weights

IMAGES = load_images("digits").images[:4]
CALIBRATION = Calibration(load_images("digits:train").images[:32])


@pytest.fixture(scope="module")
def quantized(wavering: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "wavering"
    export_bundle(wavering, folder, Terms("dual", n0=20, n=150), int8=CALIBRATION)
    return folder


def test_the_folder_says_what_it_holds(quantized: Path, deployed: Path) -> None:
    fields = json.loads((quantized / INDEX).read_text())
    plain = json.loads((deployed / INDEX).read_text())
    assert (fields["precision"], plain["precision"]) == ("int8", "fp32")
    assert fields["calibration"]["sigmas"] == {"selector": [0.5], "classifier": [0.12, 0.25, 0.5]}
    assert fields["calibration"]["images"] == 32
    for role, digest in fields["float_networks"].items():
        assert digest == plain["files"][f"{role}.onnx"]["sha256"]
        assert digest != fields["files"][f"{role}.onnx"]["sha256"]
    assert {*fields["files"]} - {*plain["files"]} == {
        "classifier.pairs.onnx", "classifier.pairs.votes.onnx",
    }  # fmt: skip


def test_files_are_valid_and_their_convolutions_are_in_int8(quantized: Path) -> None:
    for path in quantized.glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert (model.ir_version, [entry.version for entry in model.opset_import]) == (10, [18])
    model = onnx.load(quantized / "classifier.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    scaled = {node.output[0]: node.input[0] for node in model.graph.node}
    assert weights
    assert all(kinds[scaled[name]] == onnx.TensorProto.INT8 for name in weights)
    largest = [
        np.abs(numpy_helper.to_array(tensor).astype(np.int64)).max()
        for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8
    ]  # fmt: skip
    assert 32 < max(largest) <= 64  # two products with uint8 stay below 2^15


@pytest.mark.slow
def test_the_same_calibration_gives_the_same_bytes(
    quantized: Path, wavering: Bundle, tmp_path: Path
) -> None:
    export_bundle(wavering, tmp_path / "again", Terms("dual", n0=20, n=150), int8=CALIBRATION)
    assert (tmp_path / "again" / INDEX).read_bytes() == (quantized / INDEX).read_bytes()


def test_calibration_noise_has_a_phase_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network may not depend on noise that it is certified with."""
    streams = []

    def noted(seed: int, image_id: int, stream: int, *rest: Any) -> Any:
        streams.append((image_id, stream))
        return standard_normal(seed, image_id, stream, *rest)

    monkeypatch.setattr("dualsmooth.engine.quantize.calibration.standard_normal", noted)
    batches = list(Calibration(IMAGES).batches((0.25, 0.5), 3))
    assert [batch.shape for batch in batches] == [(3, 1, 8, 8), (1, 1, 8, 8)] * 2
    assert {stream & 15 for _, stream in streams} == {Phase.CALIBRATE}
    assert len(set(streams)) == len(streams) == 8
    assert batches[0].dtype == np.float32
    assert np.abs(batches[2] - batches[0]).max() > 0


def test_certificates_name_the_precision(quantized: Path, deployed: Path) -> None:
    found = {}
    for folder in (quantized, deployed):
        with OnnxCertifier(folder, threads=1) as certifier:
            found[folder] = certifier.certify(IMAGES[0])
            assert found[folder].bundle == certifier.deployment.digest
    assert (found[quantized].precision, found[deployed].precision) == ("int8", "fp32")
    assert found[quantized].bundle != found[deployed].bundle


@pytest.mark.parametrize("role", ["classifier", "selector"])
def test_votes_do_not_depend_on_the_split_of_a_draw(quantized: Path, role: str) -> None:
    session = make_session(str(read_deployment(quantized).votes_file(role)))
    image = IMAGES[0].astype(np.float32) / np.float32(255)

    def votes(first: int, rows: int) -> np.ndarray:
        feeds = vote_feeds(image, Segment(0, 1, 0.25, 3, first, rows), seed=3)
        return np.asarray(session.run(None, feeds)[0])

    parts = [votes(*part) for part in ((0, 1), (1, 300), (301, 556))]
    assert_array_equal(np.sum(parts, axis=0), votes(0, 857))


def test_the_check_compares_int8_with_itself(quantized: Path, wavering: Bundle) -> None:
    found = check_deployment(read_deployment(quantized), wavering, IMAGES, threads=1)
    assert all(finding.passed for finding in found), table(found)
    text = {finding.name: finding.text for finding in found}
    assert text["int8 certificates"] == "4 of 4 equal a recount's"
    assert "another base classifier" in text["beside float32"]
    assert "disagreements in 3,072 samples" in text["pairs of classifier"]


@pytest.mark.parametrize(
    ("file", "failing"),
    [
        ("classifier.votes.onnx", {"dual predictor", "int8 votes"}),
        ("classifier.pairs.votes.onnx", {"pairs of classifier"}),
    ],
)
def test_the_check_notices_other_votes(
    quantized: Path,
    wavering: Bundle,
    tmp_path: Path,
    sealed: Callable[[Path], None],
    file: str,
    failing: set[str],
) -> None:
    shutil.copytree(quantized, tmp_path / "copy")
    model = onnx.load(tmp_path / "copy" / file)
    other_weights(model)
    (tmp_path / "copy" / file).write_bytes(model.SerializeToString())
    sealed(tmp_path / "copy")
    found = check_deployment(read_deployment(tmp_path / "copy"), wavering, IMAGES, threads=1)
    assert failing <= {finding.name for finding in found if not finding.passed}


def test_pairs_count_disagreements(quantized: Path, deployed: Path) -> None:
    """Against int8 and float32 networks run one by one on the same rows."""
    rows = np.random.default_rng(0).random((256, 1, 8, 8), np.float32)
    int8, float32 = (
        make_session(str(folder / "classifier.onnx")).run(None, {PIXELS: rows})[0].argmax(1)
        for folder in (quantized, deployed)
    )
    found = make_session(str(quantized / "classifier.pairs.onnx")).run(None, {PIXELS: rows})[0]
    differ = int8 != float32
    assert 0 < differ.sum() < 256
    assert_array_equal(found[differ], np.eye(10, dtype=np.float32)[int8[differ]])
    assert np.isinf(found[~differ]).all()


def test_float32_is_certified_from_int8_votes(quantized: Path) -> None:
    options: dict[str, Any] = {"sigma": 0.12, "threads": 1}
    with (
        OnnxCertifier(quantized, **options) as own,
        OnnxCertifier(quantized, pairs=200, **options) as through,
        OnnxCertifier(quantized, pairs=200, feed_noise=True, **options) as fed,
    ):
        certificate = through.certify(IMAGES[0], alpha=0.01)
        direct = own.certify(IMAGES[0], alpha=0.005)
        assert through.predict(IMAGES[0]).sigmas == (0.12,)
        assert sum(fed.certify(IMAGES[0]).counts[-1].votes) == 200
    assert certificate.precision == "fp32 from int8 votes"
    assert certificate.method == "transfer(0.12, 200 pairs)"
    assert [record.model for record in certificate.counts] == [
        "classifier", "classifier", "classifier.pairs",
    ]  # fmt: skip
    assert certificate.counts[:2] == direct.counts
    assert certificate.bounds[0] == direct.bounds[0]
    assert certificate.radius <= direct.radius


@pytest.mark.parametrize(
    ("precision", "options", "message"),
    [
        ("fp32", {"sigma": 0.25, "pairs": 10}, "^pairs must go with an int8 deployment"),
        ("int8", {"pairs": 10}, "^pairs must go with fixed smoothing"),
        ("int8", {"sigma": 0.25, "pairs": 0}, "^pairs must be"),
        ("int8", {"sigma": 0.3, "pairs": 10}, "^sigma must be one of the levels"),
    ],
    ids=["float32", "dual", "no pairs", "level"],
)
def test_pairs_where_there_are_none_are_refused(
    quantized: Path, deployed: Path, precision: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        OnnxCertifier(quantized if precision == "int8" else deployed, **options)


def test_an_unknown_precision_is_refused(quantized: Path, tmp_path: Path) -> None:
    shutil.copytree(quantized, tmp_path / "copy")
    fields = json.loads((tmp_path / "copy" / INDEX).read_text()) | {"precision": "int4"}
    del fields["digest"]
    (tmp_path / "copy" / INDEX).write_text(json.dumps(fields | {"digest": digest_of(fields)}))
    with pytest.raises(FileError, match="precision must be one of fp32, int8"):
        read_deployment(tmp_path / "copy")


def test_nothing_is_left_of_a_quantisation_that_fails(
    wavering: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such layer\nmore")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fails)
    with pytest.raises(ArgumentError, match="must be a network that can be quantised; received"):
        export_bundle(wavering, tmp_path / "out", Terms("dual"), int8=CALIBRATION)
    assert not list(tmp_path.iterdir())
