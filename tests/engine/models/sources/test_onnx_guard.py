"""ONNX files from elsewhere: what names other files, states absurd shapes or loops is refused."""

import os
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.sources.onnx_guard import DEEPEST, read_deployed, read_with_data
from dualsmooth.engine.models.sources.onnx_session import make_session
from dualsmooth.export.graph.nodes import FLOAT, Nodes, model_of, value

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def model() -> ModelProto:
    """A matrix product, with its weights in an initializer and a bias in a Constant node."""
    nodes = Nodes()
    product = nodes.add("MatMul", "x", nodes.constant(WEIGHTS, np.float32))
    bias = nodes.add("Constant", value=numpy_helper.from_array(np.ones(3, np.float32)))
    result = nodes.add("Add", product, bias)
    shape = ("n", 4)
    graph = nodes.graph("net", [value("x", FLOAT, shape)], [value(result, FLOAT, ("n", 3))])
    return model_of(graph)


def saved(folder: Path, content: ModelProto | bytes) -> Path:
    path = folder / "net.onnx"
    data = content if isinstance(content, bytes) else content.SerializeToString()
    path.write_bytes(data)
    return path


def outside(tensor: TensorProto, location: str) -> None:
    """Make a tensor one whose values are in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", "48")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text


def constant_of(proto: ModelProto) -> TensorProto:
    (node,) = (node for node in proto.graph.node if node.op_type == "Constant")
    tensor: TensorProto = node.attribute[0].t
    return tensor


def test_an_honest_model_is_read_unchanged(tmp_path: Path) -> None:
    path = saved(tmp_path, model())
    assert read_with_data(path) == (path.read_bytes(), {}, False)


@pytest.mark.parametrize(
    "location", ["w.bin", "../w.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "a/../../w.bin"]
)
@pytest.mark.parametrize("where", ["initializer", "node", "body", "function"])
def test_weights_in_other_files_are_refused(tmp_path: Path, location: str, where: str) -> None:
    proto = model()
    tensor = proto.graph.initializer[0]
    if where != "initializer":
        tensor = constant_of(proto)
    outside(tensor, location)
    if where == "body":
        body = helper.make_graph(list(proto.graph.node), "body", [], [])
        proto.graph.node.add(op_type="If", name="if").attribute.append(
            helper.make_attribute("then_branch", body)
        )
        del proto.graph.node[:-1]
    if where == "function":
        function = proto.functions.add(name="f")
        function.node.extend(proto.graph.node)
        del proto.graph.node[:]
    with pytest.raises(FileError, match=r"net.onnx: must hold its weights, or have"):
        read_with_data(saved(tmp_path, proto))


def test_a_deployment_keeps_weights_beside_its_file_and_nowhere_else(tmp_path: Path) -> None:
    proto = model()
    assert read_deployed(saved(tmp_path, proto)) == proto.SerializeToString()
    tensor = proto.graph.initializer[0]
    outside(tensor, "net.onnx.data")
    (tmp_path / "net.onnx.data").write_bytes(WEIGHTS.tobytes())
    found = read_deployed(saved(tmp_path, proto))
    assert found == str(tmp_path / "net.onnx")
    ones = np.ones((1, 4), np.float32)
    got = make_session(found).run(None, {"x": ones})[0]
    np.testing.assert_array_equal(got, ones @ WEIGHTS + 1)
    for locations in (["../net.onnx.data"], ["w.bin"], ["net.onnx.data", "w.bin"]):
        del tensor.external_data[:]
        for location in locations:
            tensor.external_data.add(key="location", value=location)
        with pytest.raises(FileError, match="must hold its weights"):
            read_deployed(saved(tmp_path, proto))


def test_without_the_check_another_file_would_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime alone reads a file of the working directory: the check is what refuses it."""
    proto = model()
    outside(proto.graph.initializer[0], "secret.bin")
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path)
    session = make_session(proto.SerializeToString())
    ones = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": ones})[0], ones @ WEIGHTS + 1)
    with pytest.raises(FileError, match="must hold its weights"):
        read_with_data(saved(Path(), proto))


@pytest.mark.parametrize(
    "dims",
    [(1 << 40, 3), (1 << 62, 1 << 62), (4, -3), (-4, -3), (4, 3, 1000)],
    ids=["tera", "overflow", "negative", "negative twice", "thousandfold"],
)
def test_tensors_larger_than_their_bytes_are_refused(tmp_path: Path, dims: tuple[int, ...]) -> None:
    proto = model()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    with pytest.raises(FileError, match=r"must hold the bytes of every tensor; received shape"):
        read_with_data(saved(tmp_path, proto))


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    proto = model()
    proto.graph.sparse_initializer.append(SparseTensorProto(dims=[1 << 40]))
    with pytest.raises(FileError, match="must hold dense weights"):
        read_with_data(saved(tmp_path, proto))


@pytest.mark.parametrize("kind", ["Loop", "Scan", "SequenceMap"])
def test_loops_are_refused_where_they_must_not_be(tmp_path: Path, kind: str) -> None:
    proto = model()
    inner = helper.make_graph([helper.make_node(kind, [], [])], "inner", [], [])
    proto.graph.node.append(helper.make_node("If", [], [], then_branch=inner))
    path = saved(tmp_path, proto)
    assert read_deployed(path) == path.read_bytes()
    with pytest.raises(FileError, match=f"must not loop; received {kind}"):
        read_with_data(path)


@pytest.mark.parametrize(
    ("kind", "inputs", "refused"),
    [
        *(
            (f"Random{law}{like}", "x", True)
            for law in ("Normal", "Uniform")
            for like in ("", "Like")
        ),
        *(("Bernoulli", "x", True), ("Multinomial", "x", True), ("Dropout", "x ratio", False)),
        *(("Dropout", "x ratio training", True), ("Dropout", "x  training", True)),
    ],
)
@pytest.mark.parametrize("where", ["graph", "branch", "function"])
def test_random_numbers_are_refused_wherever_they_are_drawn(
    tmp_path: Path, kind: str, inputs: str, refused: bool, where: str
) -> None:
    """ONNX Runtime draws them unseen, and what changes one vote in a million no trial shows."""
    node, proto = helper.make_node(kind, inputs.split(" "), ["r"]), model()
    if where == "graph":
        proto.graph.node.append(node)
    elif where == "branch":
        branch = helper.make_graph([node], "b", [], [])
        proto.graph.node.append(helper.make_node("If", ["c"], ["r"], then_branch=branch))
    else:
        proto.functions.append(
            helper.make_function("f", "g", ["x"], ["r"], [node], [helper.make_opsetid("", 17)])
        )
    with pytest.raises(FileError, match="random numbers") if refused else nullcontext():
        read_with_data(saved(tmp_path, proto))


def field(number: int, content: bytes) -> bytes:
    size = len(content)
    return bytes([number << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + content


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    """A node's attribute that holds a graph with a node, and so on."""
    graph = b""
    for _ in range(DEEPEST):
        graph = field(1, field(5, field(6, graph)))
    path = saved(tmp_path, field(7, graph))
    assert read_deployed(path) == path.read_bytes()
    for _ in range(2 * DEEPEST):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(FileError, match=f"must not nest more than {DEEPEST} graphs"):
        read_with_data(saved(tmp_path, field(7, graph)))


def calling(depth: int, calls: int, ring: bool = False, domain: str = "f") -> ModelProto:
    """Functions each of which calls the next one so many times."""
    proto = model()
    for index in range(depth):
        last = index == depth - 1
        name, where = ("Relu", "") if last and not ring else (f"F{(index + 1) % depth}", domain)
        function = proto.functions.add(name=f"F{index}", domain=domain)
        for call in range(calls):
            function.node.append(helper.make_node(name, [f"t{call}"], [f"t{call + 1}"]))
            function.node[-1].domain = where
    proto.graph.node.append(helper.make_node("F0", ["x"], ["y"], domain=domain))
    return proto


@pytest.mark.parametrize("domain", ["f", "", "ai.onnx"])
def test_functions_that_call_functions_without_measure_are_refused(
    tmp_path: Path, domain: str
) -> None:
    for proto in (calling(60, 2, domain=domain), calling(17, 2, domain=domain), calling(3, 99)):
        with pytest.raises(FileError, match="must have at most 100000 nodes with its functions"):
            read_with_data(saved(tmp_path, proto))
    for depth in (1, 2, 5):
        with pytest.raises(FileError, match="must not hold functions that call themselves"):
            read_with_data(saved(tmp_path, calling(depth, 1, ring=True, domain=domain)))
    for proto in (calling(10, 2), calling(2000, 1)):
        assert read_with_data(saved(tmp_path, proto))[0] == proto.SerializeToString()


def test_functions_called_within_branches_count(tmp_path: Path) -> None:
    proto = calling(40, 2)
    (node,) = (node for node in proto.graph.node if node.op_type == "F0")
    inner = helper.make_graph([node], "inner", [], [])
    proto.graph.node.append(helper.make_node("If", [], [], then_branch=inner))
    proto.graph.node.remove(node)
    with pytest.raises(FileError, match="must have at most 100000 nodes"):
        read_with_data(saved(tmp_path, proto))


@pytest.mark.parametrize(("key", "text"), [("offset", "49"), ("length", "1000"), ("offset", "x")])
def test_bytes_beside_a_model_are_within_their_file(tmp_path: Path, key: str, text: str) -> None:
    proto = model()
    tensor = proto.graph.initializer[0]
    outside(tensor, "net.onnx.data")
    (entry,) = (entry for entry in tensor.external_data if entry.key == key)
    entry.value = text
    beside = tmp_path / "net.onnx.data"
    beside.write_bytes(WEIGHTS.tobytes())
    with pytest.raises(FileError, match=r"must name bytes that are there|must be an ONNX"):
        read_deployed(saved(tmp_path, proto))
    entry.value = "0"
    read_deployed(saved(tmp_path, proto))
    beside.rename(tmp_path / "other")
    beside.symlink_to(tmp_path / "other")
    with pytest.raises(FileError, match="must be a plain file; received a symbolic link"):
        read_deployed(saved(tmp_path, proto))


def test_sizes_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"must be (readable|a plain file)"):
        read_with_data(tmp_path / "none.onnx")
    with pytest.raises(FileError, match=r"must be (readable|a plain file)"):
        read_with_data(tmp_path)
    path = tmp_path / "vast.onnx"
    path.touch()
    os.truncate(path, (1 << 31) + 1)
    with pytest.raises(FileError, match="must be at most 2147483648 bytes"):
        read_with_data(path)


def test_other_formats_of_onnx_runtime_are_refused() -> None:
    """Its own format would not have been checked here."""
    with pytest.raises(Exception, match=r"(?i)protobuf"):
        make_session(b"\x18\0\0\0ORTM" + bytes(64))


@given(st.data())
def test_every_cut_and_every_changed_byte_is_walked_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(model().SerializeToString())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    path = saved(tmp_path_factory.getbasetemp(), bytes(content[:cut]))
    with suppress(FileError):
        assert read_with_data(path)[0] == content[:cut]
