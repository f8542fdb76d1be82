"""Valid files that fuzzing starts from: a tiny bundle, a run of it, and networks of other kinds."""

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from onnx.external_data_helper import set_external_data
from torch import nn

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.folder import read_bundle, save_bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings
from dualsmooth.export.deployment import Terms
from dualsmooth.export.graph.nodes import FLOAT, Nodes, model_of, value
from dualsmooth.export.write import index_of, versions

CLASSES = 3
SETTINGS = Settings(Budget.fixed(10, 100), device="cpu")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def make_bundle(folder: Path) -> None:
    """A dual bundle of digits with networks of a few hundred weights."""
    networks = {}
    for role, outputs in (("selector", 2), ("classifier", 10)):
        kwargs: dict[str, Any] = {"widths": [2], "hidden": 2, "num_classes": outputs}
        torch.manual_seed(outputs)
        module = create("small_convnet", kwargs).eval()
        networks[role] = network_from_module(module, "small_convnet", kwargs)
    bundle = Bundle.from_modules(
        networks, num_classes=10, input_shape=(8, 8, 1), sigmas=(0.12, 0.25), tau=0.5
    )
    save_bundle(bundle, folder)


def make_run(folder: Path, bundle: Path) -> None:
    """A finished run of it."""
    certify_run(
        DualSmoothing(read_bundle(bundle)),
        load_images("digits"),
        list(range(4)),
        SETTINGS,
        folder,
        make=FakeSampler,
    )


def make_deployment(folder: Path, bundle: Path) -> None:
    """A deployment folder whose graphs are only bytes: reading it looks no further."""
    folder.mkdir()
    source = read_bundle(bundle)
    files = {}
    for role in source.networks:
        data = role.encode()
        (folder / f"{role}.votes.onnx").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        files[f"{role}.votes.onnx"] = {"bytes": len(data), "sha256": digest}
    terms = Terms("dual", selector_rule="median", routing="interval")
    index = index_of(source, terms, 64, {"precision": "fp32", **versions()}, files)
    (folder / "deployment.json").write_text(json.dumps(index))


def onnx_seeds() -> list[bytes]:
    """Networks for images 4 x 4, one with its weights elsewhere and one that loops."""
    plain, outside, looping = (_onnx(convolve) for convolve in (True, False, False))
    set_external_data(outside.graph.initializer[0], "../weights.bin")
    outside.graph.initializer[0].ClearField("raw_data")
    looping.graph.node[0].op_type = "Loop"
    calling = _onnx(False)
    for index in range(40):  # each function calls the next one twice
        function = calling.functions.add(name=f"F{index}", domain="f")
        for _ in range(2):
            function.node.add(op_type=f"F{index + 1}", domain="f")
    calling.graph.node.add(op_type="F0", domain="f")
    return [m.SerializeToString() for m in (plain, _onnx(False), outside, looping, calling)]


def _onnx(convolve: bool) -> Any:
    nodes, x, weights = Nodes(), "x", torch.randn(16, CLASSES, generator=_generator()).numpy()
    if convolve:
        kernel = torch.randn(1, 1, 3, 3, generator=_generator()).numpy()
        x = nodes.add("Relu", nodes.add("Conv", x, nodes.constant(kernel, "f4"), pads=[1] * 4))
    logits = nodes.add("MatMul", nodes.add("Flatten", x), nodes.constant(weights, "f4"))
    sizes = ("n", 1, 4, 4)
    graph = nodes.graph("net", [value("x", FLOAT, sizes)], [value(logits, FLOAT, ("n", CLASSES))])
    return model_of(graph)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def pt2_seeds(bomb: Bomb) -> list[bytes]:
    """A program, the same with a pickle planted in it, and with text that PyTorch evaluates."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)).eval()
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(module, (torch.zeros(2, 1, 4, 4),), dynamic_shapes=({0: rows},))
    torch.export.save(program, honest := io.BytesIO())
    torch.save(bomb, payload := io.BytesIO())
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(planted := io.BytesIO(), "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr(f"{root}/data/constants/opaque_obj_0", payload.getvalue())
    text = f"__import__('pathlib').Path({str(bomb.target)!r}).touch()"
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(evaluated := io.BytesIO(), "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                changed = re.sub(r"Symbol\(.*?\)", f"({text} or 2)", data.decode())
                data = changed.replace('"guards_code": []', f'"guards_code": ["{text}"]').encode()
            new.writestr(name, data)
    return [honest.getvalue(), planted.getvalue(), evaluated.getvalue()]


def checkpoint_seeds(bomb: Bomb) -> list[bytes]:
    """Checkpoints: in both of PyTorch's formats, with too few tensors, and with a bomb."""
    network = create("cifar_resnet20", {"num_classes": 2})
    whole = {"arch": "cifar_resnet20", "state_dict": network.state_dict()}
    few = {"arch": "cifar_resnet20", "state_dict": {"module.fc.bias": torch.zeros(2)}}
    seeds = []
    mean = {"0.means": torch.ones(3), "0.sds": torch.zeros(1).expand(3)}
    front = {**whole, "state_dict": mean | {f"1.{k}": v for k, v in network.state_dict().items()}}
    shared: Any = "cifar_resnet20"
    for _ in range(40):
        shared = [shared, shared]
    for content, zipped in (
        (whole, True),
        (whole, False),
        (few, True),
        (few, False),
        ({"arch": bomb}, True),
        ({"arch": bomb}, False),
        (front, True),
        ({"arch": shared}, True),
    ):
        torch.save(content, file := io.BytesIO(), _use_new_zipfile_serialization=zipped)
        seeds.append(file.getvalue())
    return seeds
