"""Classifiers exported elsewhere: tried before they are believed, then certified like any other."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from onnx import ModelProto
from onnx.external_data_helper import set_external_data
from torch import nn
from typer.testing import CliRunner

from dualsmooth.benchmarks.soak.fuzz.seeds import Bomb
from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cli.app import app
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.search import make_search
from dualsmooth.engine.models import front_door
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.load import load_bundle, place_of
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings
from dualsmooth.export.graph.nodes import FLOAT, INT64, Nodes, model_of, value

SHAPE, CLASSES = (6, 5, 3), 4
IMAGES = np.random.default_rng(2).random((3, *SHAPE)).astype(np.float32)
Body = Callable[[Nodes, str], str]


class Linear(nn.Module):
    """The same logits as `linear`, in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(WEIGHTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weights


WEIGHTS = np.random.default_rng(3).standard_normal((90, CLASSES)).astype(np.float32)


def linear(nodes: Nodes, pixels: str) -> str:
    flat = nodes.add("Flatten", pixels)
    return nodes.add("MatMul", flat, nodes.constant(WEIGHTS, np.float32))


def onnx_file(
    path: Path,
    body: Body = linear,
    sizes: tuple[int | str, ...] = ("n", 3, 6, 5),
    kind: int = FLOAT,
) -> Path:
    nodes = Nodes()
    output = body(nodes, "x")
    graph = nodes.graph("net", [value("x", kind, sizes)], [value(output, FLOAT, (None, None))])
    path.write_bytes(model_of(graph).SerializeToString())
    return path


def pt2_file(path: Path, module: nn.Module, rows: int | None = None) -> Path:
    example = torch.zeros(rows or 2, 3, 6, 5)
    shapes = None if rows else ({0: torch.export.Dim("n", min=1)},)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=shapes), path)
    return path


def votes(source: Path | Bundle) -> list[list[tuple[int, ...]]]:
    bundle = source if isinstance(source, Bundle) else load_bundle(source)
    certificates = certify(
        FixedSmoothing(bundle, 0.5), IMAGES, budget=Budget.fixed(20, 400), device="cpu",
        precision="fp32", threads=1,
    )  # fmt: skip
    return [[record.votes for record in c.counts] for c in certificates]


def test_they_vote_as_the_network_does(tmp_path: Path) -> None:
    module = Linear().eval()
    expected = votes(Bundle.from_classifier(module, num_classes=CLASSES, input_shape=SHAPE))
    assert len({tuple(v[1]) for v in expected}) == 3
    assert votes(onnx_file(tmp_path / "any.onnx")) == expected
    assert votes(onnx_file(tmp_path / "seven.onnx", sizes=(7, 3, 6, 5))) == expected
    assert votes(pt2_file(tmp_path / "any.pt2", module)) == expected
    assert votes(pt2_file(tmp_path / "seven.pt2", module, 7)) == expected


@pytest.mark.parametrize("rows", ["n", 7])
def test_a_model_that_branches_gets_each_row_alone(tmp_path: Path, rows: int | str) -> None:
    """One image of sixes in a batch turns all; no trial has one."""

    def branching(nodes: Nodes, x: str) -> str:
        from_six = nodes.add("Abs", nodes.add("Sub", x, nodes.constant(6.0, np.float32)))
        most = nodes.add("ReduceMax", from_six, nodes.constant([1, 2, 3], np.int64), keepdims=0)
        least = nodes.add("ReduceMin", most, keepdims=0)
        logits, turned, kept = linear(nodes, x), Nodes(), Nodes()
        branches = {
            "then_branch": turned.graph("t", [], [value(turned.add("Neg", logits), FLOAT, None)]),
            "else_branch": kept.graph("k", [], [value(kept.add("Abs", logits), FLOAT, None)]),
        }
        return nodes.add(
            "If", nodes.add("Less", least, nodes.constant(0.1, np.float32)), **branches
        )

    with pytest.warns(UserWarning, match="runs row by row"):
        network = load_bundle(onnx_file(tmp_path / "m.onnx", branching, (rows, 3, 6, 5)))
    batch = torch.rand(5, 3, 6, 5)
    batch[1::2] = 6 + 0.05 * batch[1::2]
    turned = torch.from_numpy(batch.flatten(1).numpy() @ WEIGHTS)
    turned[::2], turned[1::2] = turned[::2].abs(), -turned[1::2]
    torch.testing.assert_close(network.build("classifier")(batch), turned)


def test_channels_may_come_last_as_keras_has_them(tmp_path: Path) -> None:
    def first(nodes: Nodes, x: str) -> str:
        return linear(nodes, nodes.add("Transpose", x, perm=[0, 3, 1, 2]))

    file = onnx_file(tmp_path / "last.onnx", first, ("n", 6, 5, 3))
    assert load_bundle(file).input_shape == SHAPE
    expected = votes(onnx_file(tmp_path / "first.onnx"))
    assert votes(file) == expected
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    pair = [load_bundle(path, mean=mean, std=std) for path in (file, tmp_path / "first.onnx")]
    assert votes(pair[0]) == votes(pair[1]) != expected


def test_the_digest_is_the_file_s(tmp_path: Path) -> None:
    first = load_bundle(onnx_file(tmp_path / "a.onnx"))
    assert (first.input_shape, first.num_classes, first.sigmas) == (SHAPE, CLASSES, ())
    assert first.digest == load_bundle(onnx_file(tmp_path / "b.onnx")).digest
    other = onnx_file(tmp_path / "c.onnx", lambda n, x: n.add("Neg", linear(n, x)))
    assert first.digest != load_bundle(other).digest


def centered(nodes: Nodes, x: str) -> str:
    logits = linear(nodes, x)
    return nodes.add("Sub", logits, nodes.add("ReduceMean", logits))


def scaled(nodes: Nodes, x: str) -> str:
    """One scale for the batch, as dynamic quantisation takes it: no order of rows changes it."""
    largest = nodes.add("ReduceMax", nodes.add("Abs", x), keepdims=0)
    return nodes.add("Div", linear(nodes, x), largest)


def random(nodes: Nodes, x: str) -> str:
    logits = linear(nodes, x)
    return nodes.add("Add", logits, nodes.add("RandomNormalLike", logits))


def logarithm(nodes: Nodes, x: str) -> str:
    return linear(nodes, nodes.add("Log", x))


def one_class(nodes: Nodes, x: str) -> str:
    return nodes.add("ReduceSum", linear(nodes, x), nodes.constant([1], np.int64))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (centered, "must give an image the same logits whatever else is in the batch"),
        (scaled, "whatever else is in the batch; received others at another place"),
        (random, "must not draw random numbers; received RandomNormalLike"),
        (logarithm, "received NaN or infinity for most images with noise"),
        (one_class, r"must return a tensor of logits \(rows, classes\); received \(3, 1\)"),
        (lambda nodes, x: nodes.add("Relu", x), r"must return a tensor of logits \(rows, class"),
    ],
    ids=["batch mates", "scale of the batch", "chance", "infinite", "one class", "images"],
)
def test_a_network_that_fails_its_trial_is_refused(
    tmp_path: Path, body: Body, message: str
) -> None:
    with pytest.raises(FileError, match=message) as caught:
        load_bundle(onnx_file(tmp_path / "net.onnx", body))
    assert "\n" not in str(caught.value)


def test_what_was_tried_when_it_was_read_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = list[front_door._Trial]()
    run = front_door._Trial.run

    def noted(trial: front_door._Trial) -> None:
        trials.append(trial)
        run(trial)

    monkeypatch.setattr(front_door._Trial, "run", noted)
    bundle = load_bundle(onnx_file(tmp_path / "net.onnx"))
    for _ in range(2):
        bundle.build("classifier")
    assert len(trials) == 1
    with pytest.raises(FileError, match=r"to 9 logits, a tensor; received \(3, 4\)"):
        replace(bundle, num_classes=9).build("classifier")


@pytest.mark.parametrize(
    ("sizes", "kind", "message"),
    [
        (("n", 90), FLOAT, r"must take a batch of images .*; received \('any', 90\)"),
        (("n", 3, "h", "w"), FLOAT, "must take a batch of images"),
        (("n", 3, 6, 5), INT64, "must have one float32 input|that this ONNX Runtime can run"),
    ],
    ids=["flat", "any size", "integers"],
)
def test_other_inputs_are_refused(
    tmp_path: Path, sizes: tuple[int | str, ...], kind: int, message: str
) -> None:
    with pytest.raises(FileError, match=message):
        load_bundle(onnx_file(tmp_path / "net.onnx", sizes=sizes, kind=kind))


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    for name in ("net.onnx", "net.pt2"):
        with pytest.raises(FileError, match="must be readable"):
            load_bundle(tmp_path / name)
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(FileError, match=r"must be an ONNX file|must be a program of plain"):
            load_bundle(tmp_path / name)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "net.onnx", sizes=("axis", 3, 6, 5))
    path.write_bytes(path.read_bytes().replace(b"axis", b"\xee\xee\xee\xee"))
    with pytest.raises(FileError, match=r"net\.onnx: must be an ONNX file"):
        load_bundle(path)


@pytest.mark.parametrize("sizes", [("n", 3, 1 << 20, 1 << 20), (1 << 30, 3, 6, 5)])
def test_absurd_inputs_are_refused(tmp_path: Path, sizes: tuple[int | str, ...]) -> None:
    path = onnx_file(tmp_path / "net.onnx", lambda nodes, x: nodes.add("Flatten", x), sizes)
    rule = "net.onnx: must take images of at most 4194304 values, 268435456 in a batch; received"
    with pytest.raises(FileError, match=rule):
        load_bundle(path)


def test_models_that_name_other_files_or_loop_are_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "net.onnx")
    proto = ModelProto.FromString(path.read_bytes())
    tensor = proto.graph.initializer[0]
    set_external_data(tensor, "../net.bin")
    tensor.ClearField("raw_data")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FileError, match=r"net\.onnx: must hold its weights"):
        load_bundle(path)
    path = onnx_file(path, lambda nodes, x: nodes.add("Loop", "", "", linear(nodes, x)))
    with pytest.raises(FileError, match=r"net\.onnx: must not loop; received Loop"):
        load_bundle(path)


@pytest.mark.filterwarnings("ignore")
def test_weights_beside_the_model_as_pytorch_writes_them(tmp_path: Path) -> None:
    options = pytest.importorskip("onnxruntime").SessionOptions
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        pytest.skip("this ONNX Runtime reads no weights beside a model")
    path, beside = tmp_path / "net.onnx", tmp_path / "net.onnx.data"
    torch.onnx.export(Linear().eval(), (torch.zeros(1, 3, 6, 5),), path, verbose=False)
    assert beside.exists()  # or this tests nothing
    assert votes(path) == votes(onnx_file(tmp_path / "whole.onnx"))
    digest = load_bundle(path).digest
    data = bytearray(beside.read_bytes())
    data[-1] ^= 1
    beside.write_bytes(data)
    assert load_bundle(path).digest != digest
    renamed = path.rename(tmp_path / "other.onnx")
    with pytest.raises(FileError, match=r"other\.onnx\.data beside it; received weights in 'net"):
        load_bundle(renamed)
    renamed.rename(path)
    beside.write_bytes(data[:100])
    with pytest.raises(FileError, match=r"net\.onnx: must"):
        load_bundle(path)
    beside.unlink()
    beside.symlink_to("/etc/passwd")
    with pytest.raises(FileError, match=r"net\.onnx\.data: must be a plain file"):
        load_bundle(path)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_mean_and_std_in_front_of_an_exported_classifier(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net.{suffix}"
    onnx_file(path) if suffix == "onnx" else pt2_file(path, Linear().eval())
    bundle, x = load_bundle(path, mean=[0.5], std=[0.5, 0.25, 0.125]), torch.rand(2, 3, 6, 5)
    inputs = (x - 0.5) / torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)
    torch.testing.assert_close(bundle.build("classifier")(x), Linear()(inputs))
    assert bundle.networks["classifier"].kwargs == {"mean": [0.5] * 3, "std": [0.5, 0.25, 0.125]}
    assert len({bundle.digest, load_bundle(path).digest, load_bundle(path, std=[0.5]).digest}) == 3


def test_exporting_what_was_exported_is_refused_before_any_work(tmp_path: Path) -> None:
    write = pytest.importorskip("dualsmooth.export.write")
    bundle = load_bundle(onnx_file(tmp_path / "net.onnx"))
    terms = write.Terms(method="fixed", sigma=0.5)
    with pytest.raises(ArgumentError, match=r"bundle must not be a file that was exported already"):
        write.export_bundle(bundle, tmp_path / "out", terms)
    command = ["export", str(tmp_path / "net.onnx"), "--out", str(tmp_path / "out")]
    (tmp_path / "net.onnx").write_bytes(b"not even read")
    result = CliRunner().invoke(app, [*command, "--sigma", "0.5"])
    assert "exported already (.onnx, .pt2); received" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_program_that_expands_out_of_proportion_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dualsmooth.engine.limits._UNSUSPECTED", 1_000_000)
    for name in ("net.pt2", "net.pth.tar"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("net/data/sample_inputs/model.pt", bytes(5_000_000))
        assert (tmp_path / name).stat().st_size < 10_000
        with pytest.raises(FileError, match="must not be a decompression bomb"):
            load_bundle(tmp_path / name)


@pytest.mark.parametrize("part", ["data/weights/model.pt", "data/constants/opaque_obj_0"])
def test_a_program_with_pickled_objects_is_refused_unread(tmp_path: Path, part: str) -> None:
    plain, planted = pt2_file(tmp_path / "net.pt2", Linear().eval()), tmp_path / "bad.pt2"
    payload = io.BytesIO()
    torch.save(Bomb(tmp_path / "ran"), payload)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(planted, "w") as new:
        names = old.namelist()
        root = names[0].split("/")[0]
        for name in {*names, f"{root}/{part}"}:
            new.writestr(name, payload.getvalue() if name.endswith(part) else old.read(name))
    with pytest.raises(FileError, match="must be a program of plain tensors"):
        load_bundle(planted)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_every_road_finds_the_place_where_they_run(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine whose `auto` is a GPU or bf16, where they cannot run."""
    monkeypatch.setattr("dualsmooth.engine.samplers.choose.multiplies_bf16", lambda: True)
    path = tmp_path / f"net.{kind}"
    bundle = load_bundle(onnx_file(path) if kind == "onnx" else pt2_file(path, Linear().eval()))
    method, budget = FixedSmoothing(bundle, 0.5), Budget.fixed(10, 50)
    certificates = certify(method, IMAGES, budget=budget)
    assert {(c.device, c.precision) for c in certificates} == {("cpu", "fp32")}
    with Session.open(method, Settings(budget)) as session:
        assert len(dict(session.predict(IMAGES))) == 3
        assert len(dict(session.search(IMAGES, make_search(bundle, "quasiconcave")))) == 3
    data = ImageSet(IMAGES, np.zeros(3, np.int64), "three", ())
    certify_run(method, data, [0, 2], Settings(budget), tmp_path / "run")
    assert read_configuration(tmp_path / "run")["precision"] == "fp32"
    with pytest.raises(ArgumentError, match=r"^precision must be fp32"):
        certify(method, IMAGES, precision="bf16")


def test_they_run_on_the_cpu_in_float32_only(tmp_path: Path) -> None:
    assert place_of(["onnx"], "auto", "auto") == ("cpu", "fp32")
    assert place_of(["resnet", "timm:a.onnx"], "auto", "bf16") == ("auto", "bf16")
    with pytest.raises(ArgumentError, match=r"^precision must be fp32 for .onnx, .pt2 files"):
        place_of(["resnet", "pt2"], "auto", "bf16")
    with pytest.raises(ArgumentError, match=r"^device must be cpu for"):
        place_of(["onnx"], "cuda", "auto")
    module = load_bundle(onnx_file(tmp_path / "net.onnx")).build("classifier")
    with pytest.raises(RuntimeError, match="float32 only"):
        module(torch.zeros(1, 3, 6, 5, dtype=torch.bfloat16))
    assert_array_equal(module(torch.zeros(0, 3, 6, 5)).shape, (0, CLASSES))
