"""A ``.pt2`` from a stranger: nothing in it is run, evaluated, imported or unpickled."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dualsmooth.benchmarks.soak.fuzz.seeds import Bomb
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models import front_door
from dualsmooth.engine.models.capture import capture
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.rows import noisy
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.models.sources.pt2 import load_pt2
from tests.conftest import Command

SHAPE = (3, 6, 5)
Change = Callable[[dict[str, Any]], object]


class Mixed(nn.Module):
    """Most kinds of argument: in place, several results, sizes, dtypes, buffers, constants."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )
        self.head = nn.Linear(120, 4)
        self.register_buffer("scale", torch.full((3, 1, 1), 2.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(self.scale)  # the caller's batch must stay as it is
        first, second = self.head(self.layers(x).view(x.shape[0], -1)).chunk(2, 1)
        found: torch.Tensor = torch.cat([first, second.double().float()], 1)
        return found + torch.zeros(x.shape[0] * 1, 4) + torch.tensor([1.0, 0, 0, 0])


def saved(path: Path) -> Path:
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("n", min=1)},)
    program = torch.export.export(Mixed().eval(), (torch.rand(2, *SHAPE),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("pt2") / "net.pt2")


def planted(honest: Path, path: Path, change: Change, part: str = "models/model.json") -> Path:
    """A copy with one JSON part changed."""
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(part):
                change(content := json.loads(data))
                data = json.dumps(content).encode()
            new.writestr(name, data)
    return path


def graph(model: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = model["graph_module"]["graph"]
    return found


def rows_of(model: dict[str, Any]) -> dict[str, Any]:
    spec = model["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"]
    found: dict[str, Any] = graph(model)["tensor_values"][spec["as_tensor"]["name"]]["sizes"][0]
    return found


def test_it_computes_what_pytorch_s_reader_does(honest: Path) -> None:
    x = torch.rand(5, *SHAPE)
    kept = x.clone()
    (_, (ours, sizes, *_)), (_, (theirs, *_)) = load_pt2(honest), load_pt2(honest, trust=True)
    with torch.inference_mode():
        assert torch.equal(ours(x), theirs(x.clone()))
    assert torch.equal(x, kept)
    assert sizes == (None, *SHAPE)
    with pytest.raises(ValueError, match="takes no batch of shape"):
        ours(torch.rand(5, 3, 6, 4))


RUN = "__import__('pathlib').Path({!r}).touch()"


@pytest.mark.parametrize("where", ["expression", "guard"])
def test_text_that_pytorch_evaluates_is_not(honest: Path, tmp_path: Path, where: str) -> None:
    text = RUN.format(str(tmp_path / "ran"))

    def change(model: dict[str, Any]) -> None:
        if where == "guard":
            model["guards_code"] = [f"({text} or True)"]
        else:
            rows_of(model)["as_expr"]["expr_str"] = f"({text} or 2)"

    path = planted(honest, tmp_path / "bad.pt2", change)
    with pytest.raises(FileError, match=r"bad\.pt2: must be a program .*trust-model") as caught:
        load_bundle(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    try:
        load_bundle(path, trust=True)
    except FileError:
        pass
    assert (tmp_path / "ran").exists()  # so the attack is a real one, and the flag means it


def everywhere(text: str) -> Change:
    """Put a text where PyTorch parses expressions, imports modules or writes code of its own."""

    def change(model: dict[str, Any]) -> None:
        for name in graph(model)["sym_int_values"]:
            graph(model)["sym_int_values"][name]["as_expr"]["expr_str"] = text
        spec = {
            "type": "collections.defaultdict",
            "children_spec": [],
            "context": json.dumps(
                {
                    "default_factory_module": "planted",
                    "default_factory_name": "x",
                    "dict_context": [],
                }
            ),
        }
        for call in model["graph_module"]["module_call_graph"]:
            if call["signature"]:
                call["signature"]["in_spec"] = json.dumps([1, spec])
        for node in graph(model)["nodes"]:
            node["name"] = text
            node["metadata"] = {"source_fn_stack": f"x,{text}", "nn_module_stack": text}

    return change


def test_what_is_not_needed_is_not_looked_at(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text(RUN.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path)
    path = planted(honest, tmp_path / "odd.pt2", everywhere(RUN.format(str(tmp_path / "ran"))))
    load_bundle(path).build("classifier")(torch.rand(3, *SHAPE))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system", "torch.hub.load", "torch.load", "_operator.attrgetter", "math.exp",
        "torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "#planted:f", "",
        "torch.ops.aten.add.__class__", "torch.ops.aten.mul.left_t", "torch.ops.aten.add.str",
        "torch.ops.higher_order.cond", "torch.ops.prims.add.default", "torch.ops.aten.set_.source",
        "torch.ops.aten.resize_.default", "torch.ops.aten.empty.memory_format", "relu",
    ],
)  # fmt: skip
def test_other_operators_are_refused(honest: Path, tmp_path: Path, target: str) -> None:
    def change(model: dict[str, Any]) -> None:
        graph(model)["nodes"][-1]["target"] = target

    with pytest.raises(FileError, match="is not known to be harmless"):
        load_pt2(planted(honest, tmp_path / "bad.pt2", change))


@pytest.mark.parametrize(
    "argument",
    [
        {"as_custom_obj": {"name": "x", "class_fqn": "y"}}, {"as_graph": {"name": "x"}},
        {"as_operator": "torch.os.system"}, {"as_device": {"type": "cuda", "index": 0}},
        {"as_layout": 1}, {"as_string_to_argument": {}}, {},
    ],
)  # fmt: skip
def test_other_arguments_are_refused(
    honest: Path, tmp_path: Path, argument: dict[str, Any]
) -> None:
    def change(model: dict[str, Any]) -> None:
        graph(model)["nodes"][-1]["inputs"][0]["arg"] = argument

    with pytest.raises(FileError, match="must be a program of plain tensors"):
        load_pt2(planted(honest, tmp_path / "bad.pt2", change))


def test_pickled_weights_and_parts_are_refused(honest: Path, tmp_path: Path) -> None:
    torch.save(Bomb(tmp_path / "ran"), payload := io.BytesIO())

    def pickled(config: dict[str, Any]) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    bad = planted(honest, tmp_path / "bad.pt2", pickled, "model_weights_config.json")
    with zipfile.ZipFile(honest) as archive:
        root = archive.namelist()[0].split("/")[0]
    with pytest.raises(FileError, match="is a pickle"):
        load_pt2(bad)
    for part in ("data/weights/model.pt", "data/constants/custom_obj_0", "data/constants/model.pt",
                 "data/aotinductor/model/model.so", "extra/x", "models/other.json"):  # fmt: skip
        bad.write_bytes(honest.read_bytes())
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(f"{root}/{part}", payload.getvalue())
        with pytest.raises(FileError, match="unexpected part"):
            load_pt2(bad)
    with zipfile.ZipFile(bad, "w") as archive:  # the layout of PyTorch 2.7
        for part in ("version", "serialized_exported_program.json", "serialized_state_dict.pt",
                     "serialized_constants.pt", "serialized_example_inputs.pt"):  # fmt: skip
            archive.writestr(part, payload.getvalue() if part.endswith("pt") else b"8.1")
    with pytest.raises(FileError, match="unexpected part"):
        load_pt2(bad)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["stride 0", "beyond", "negative", "duplicate"])
def test_weights_are_no_larger_than_their_bytes(honest: Path, tmp_path: Path, kind: str) -> None:
    def change(config: dict[str, Any]) -> None:
        meta = next(iter(config["config"].values()))["tensor_meta"]
        if kind == "stride 0":
            meta |= {"sizes": [{"as_int": 1 << 40}], "strides": [{"as_int": 0}]}
        elif kind == "beyond":
            meta["storage_offset"] = {"as_int": 1 << 20}
        elif kind == "negative":
            meta["strides"] = [{"as_int": -1}] * 4

    bad = planted(honest, tmp_path / "bad.pt2", change, "model_weights_config.json")
    if kind == "duplicate":
        with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(bad, "a") as new:
            new.writestr(new.namelist()[0], b"")
    with pytest.raises(FileError, match=r"bad\.pt2: must"):
        load_pt2(bad)


def doubled(model: dict[str, Any], times: int) -> None:
    """Concatenate the result with itself again and again: a few bytes, any memory."""
    nodes, name = graph(model)["nodes"], graph(model)["outputs"][0]["as_tensor"]["name"]
    for index in range(times):
        new = f"double_{index}"
        tensors = {"name": "tensors", "arg": {"as_tensors": [{"name": name}] * 2}, "kind": 1}
        dim = {"name": "dim", "arg": {"as_int": 1}, "kind": 1}
        nodes.append({"target": "torch.ops.aten.cat.default", "inputs": [tensors, dim],
                      "outputs": [{"as_tensor": {"name": new}}]})  # fmt: skip
        name = new
    output = model["graph_module"]["signature"]["output_specs"][0]["user_output"]
    output["arg"]["as_tensor"]["name"] = name


def filled(model: dict[str, Any]) -> None:
    node = next(n for n in graph(model)["nodes"] if n["target"] == "torch.ops.aten.zeros.default")
    node["inputs"][0]["arg"] = {"as_ints": [1 << 20, 1 << 20]}


@pytest.mark.parametrize("change", [lambda m: doubled(m, 60), lambda m: doubled(m, 24), filled])
def test_values_without_end_are_refused_before_they_are_made(
    honest: Path, tmp_path: Path, change: Change
) -> None:
    with pytest.raises(FileError, match=r"values of \d+ in one step|Storage size|overflow"):
        load_pt2(planted(honest, tmp_path / "bad.pt2", change))


@pytest.mark.filterwarnings("error")
def test_a_program_is_captured_for_faster_forms_and_read_instead_of_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, run = list[int](), front_door._Trial.run

    def counted(trial: Any) -> None:
        trials.append(1)
        run(trial)

    monkeypatch.setattr(front_door._Trial, "run", counted)
    program = torch.export.export(
        create("cifar_resnet20", {}).eval(),
        (torch.rand(2, 3, 32, 32),),
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
    )
    torch.export.save(program, tmp_path / "net.pt2")
    bundle = load_bundle(tmp_path / "net.pt2")
    captured = capture(bundle.build("classifier"), torch.zeros(2, 3, 32, 32))
    assert captured is not None
    assert sum(type(part) is nn.Conv2d for part in captured.modules()) == 21
    x = noisy(2, (32, 32, 3)).contiguous()
    with torch.inference_mode():
        torch.testing.assert_close(captured(x), bundle.build("classifier")(x))
    assert not trials
    load_bundle(tmp_path / "net.pt2", trust=True)  # by PyTorch's reader
    assert trials


@pytest.mark.parametrize("trust", [False, True])
def test_programs_of_several_inputs_or_outputs_are_refused_in_words(
    trust: bool, tmp_path: Path
) -> None:
    class Several(nn.Module):
        def forward(self, x: torch.Tensor, *others: torch.Tensor) -> Any:
            return (
                sum(others, x.flatten(1)) if others else {"logits": x.flatten(1), "mean": x.mean()}
            )

    for inputs, found in ((1, "2 outputs"), (2, "2 inputs")):
        given = (torch.rand(2, *SHAPE), torch.rand(2, 90))[:inputs]
        torch.export.save(torch.export.export(Several().eval(), given), tmp_path / "net.pt2")
        with pytest.raises(
            FileError, match=f"one input, images, and one output, logits; .* {found}"
        ):
            load_pt2(tmp_path / "net.pt2", trust=trust)


def test_programs_for_some_numbers_of_rows_are_tried(tmp_path: Path) -> None:
    def read(rows: Any, change: Change = lambda _: None) -> bool:
        module = nn.Sequential(nn.Flatten(), nn.Linear(90, 4)).eval()
        program = torch.export.export(module, (torch.rand(3, *SHAPE),), dynamic_shapes=(rows,))
        torch.export.save(program, tmp_path / "net.pt2")
        return load_pt2(planted(tmp_path / "net.pt2", tmp_path / "other.pt2", change))[1].row_wise

    assert read(None)  # of three rows at a time
    assert read({0: torch.export.Dim("n", min=1)})
    assert not read({0: torch.export.Dim("n", min=1, max=16)})
    assert not read({0: torch.export.Dim("n", min=3)})


def test_a_program_that_changes_its_weights_is_refused(honest: Path, tmp_path: Path) -> None:
    def change(model: dict[str, Any]) -> None:
        weight = {"name": "self", "arg": graph(model)["inputs"][0], "kind": 1}
        node = {"target": "torch.ops.aten.sqrt_.default", "inputs": [weight]}
        graph(model)["nodes"].append(node | {"outputs": [{"as_tensor": {"name": "unused"}}]})

    with pytest.raises(FileError, match="changes the program's own tensors"):
        load_bundle(planted(honest, tmp_path / "bad.pt2", change))


def test_the_command_line_refuses_in_one_line(
    honest: Path, tmp_path: Path, command: Command
) -> None:
    text = RUN.format(str(tmp_path / "ran"))
    bad = planted(honest, tmp_path / "bad.pt2", lambda model: model.update(guards_code=[text]))
    for verb in ("certify", "predict", "search", "export"):
        data = [str(tmp_path / "x.png")] if verb == "predict" else ["--data", "digits"]
        out = ["--out", str(tmp_path / "out")] if verb in ("search", "export") else []
        data = [] if verb == "export" else data
        code, _, error = command(verb, bad, *data, *out)
        assert code == 2
        assert ("exported already" if verb == "export" else "--trust-model") in error
    assert not (tmp_path / "ran").exists()
