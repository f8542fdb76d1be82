"""Which programs are believed without a trial: those whose operators keep rows apart."""

from typing import Any

import pytest
import torch

from dualsmooth.engine.models.sources.pt2_program import Pt2Program
from dualsmooth.engine.models.sources.pt2_rows import is_row_wise

ROWS, SHAPE = 4, (3, 6, 5)
draws = torch.Generator().manual_seed(0)
CONSTANTS = {
    name: torch.randn(sizes, generator=draws)
    for name, sizes in {
        **{"w": (4, 90), "b": (4,), "flat": (90,), "kernel": (3, 3, 3, 3), "channel": (3,)},
        **{"map": (3, 6, 5), "one": (1, 3, 6, 5), "places": (ROWS, 3, 6, 5), "short": (ROWS, 4)},
        "mask": (ROWS, 1, 6, 6),
    }.items()
} | {"positive": torch.rand(3, generator=draws)}


def argument(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        texts = bool(value) and isinstance(value[0], str)
        return {"as_tensors": [{"name": v} for v in value]} if texts else {"as_ints": value}
    kinds: tuple[tuple[type, str], ...] = ((bool, "as_bool"), (int, "as_int"), (float, "as_float"))
    found = next((name for kind, name in kinds if isinstance(value, kind)), None)
    if found:
        return {found: value}
    return {"as_none": True} if value is None else {"as_tensor": {"name": value}}


def node(target: str, result: str, **given: Any) -> dict[str, Any]:
    inputs = [{"name": name, "arg": argument(value)} for name, value in given.items()]
    outputs = [{"as_tensor": {"name": result}}]
    return {"target": f"torch.ops.aten.{target}", "inputs": inputs, "outputs": outputs}


def program(*nodes: dict[str, Any], maps: str = "y") -> Pt2Program:
    """A program that ends with a linear layer on some maps."""
    head = [
        node("flatten.using_ints", "flat_y", self=maps, start_dim=1),
        node("linear.default", "logits", input="flat_y", weight="w", bias="b"),
    ]
    return Pt2Program([*nodes, *head], CONSTANTS, "x", "logits")


def mixes(run: Pt2Program) -> bool:
    """Whether logits change with other rows, with the place or with the number of rows."""
    x = torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(1))
    wanted, other = run(x.clone()), x.clone()
    other[1:] = 9.0 * other[1:].flip(0)
    beside, moved = run(other)[:1], run(x.flip(0))
    if len(wanted) != ROWS or len(moved) != ROWS:
        return True
    close = torch.allclose(beside, wanted[:1], 1e-4, 1e-4)
    return not (close and torch.allclose(moved.flip(0), wanted, 1e-4, 1e-4))


def norm(training: bool, **more: str) -> dict[str, Any]:
    given = {"weight": "channel", "bias": "channel", "running_mean": "channel"} | more
    options = {"training": training, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": False}
    return node("batch_norm.default", "y", input="x", **given, running_var="positive", **options)


def attention(**more: Any) -> dict[str, Any]:
    target = "scaled_dot_product_attention.default"
    return node(target, "y", query="x", key="x", value="x", **more)


ALONE = {
    "convolution": [node("conv2d.default", "y", input="x", weight="kernel", padding=[1, 1])],
    "norm": [norm(False)],
    "in place": [
        node("mul_.Tensor", "z", self="x", other="map"),
        node("relu_.default", "y", self="z"),
    ],
    "sums": [
        node("add.Tensor", "z", self="x", other="one"),
        node("sub.Tensor", "y", self="x", other="z", alpha=2),
    ],
    "number": [node("div.Tensor", "y", self="x", other=2.0)],
    "dropout off": [node("dropout.default", "y", input="x", p=0.5, train=False)],
    "squeezed": [
        node("mean.dim", "z", self="x", dim=[-1, 2], keepdim=True),
        node("mul.Tensor", "y", self="x", other="z"),
    ],
    "pooled": [
        node("max_pool2d.default", "z", self="x", kernel_size=[3, 3], stride=[1], padding=[1]),
        node("avg_pool2d.default", "y", self="z", kernel_size=[1, 1]),
    ],
    "side by side": [
        node("adaptive_avg_pool2d.default", "z", self="x", output_size=[3, 5]),
        node("cat.default", "y", tensors=["z", "z"], dim=2),
    ],
    "attention": [attention()],
    "shadowed": [
        node("sigmoid.default", "one", self="x"),
        node("add.Tensor", "y", self="x", other="one"),
    ],
}

MIXED = {
    "mean of the batch": [
        node("mean.dim", "z", self="x", dim=[0], keepdim=True),
        node("sub.Tensor", "y", self="x", other="z"),
    ],
    "mean of all": [
        node("mean.dim", "z", self="x", dim=None, keepdim=True),
        node("sub.Tensor", "y", self="x", other="z"),
    ],
    "first axis from behind": [
        node("mean.dim", "z", self="x", dim=[1, -4], keepdim=True),
        node("sub.Tensor", "y", self="x", other="z"),
    ],
    "a constant with places": [node("add.Tensor", "y", self="x", other="places")],
    "a bias with places": [
        node("flatten.using_ints", "f", self="x", start_dim=1),
        node("linear.default", "q", input="f", weight="w", bias="short"),
        node("mean.dim", "z", self="q", dim=[1], keepdim=True),
        node("flatten.using_ints", "g", self="x", start_dim=1),
        node("mul.Tensor", "y", self="g", other="z"),
    ],
    "rows of other axes": [
        node("mean.dim", "z", self="x", dim=[1, 2]),
        node("mean.dim", "u", self="z", dim=[1], keepdim=True),
        node("mean.dim", "v", self="u", dim=[1]),
        node("add.Tensor", "t", self="u", other="v"),
        node("mean.dim", "s", self="t", dim=[1], keepdim=True),
        node("flatten.using_ints", "g", self="x", start_dim=1),
        node("mul.Tensor", "y", self="g", other="s"),
    ],
    "statistics of the batch": [norm(True)],
    "batch beside batch": [node("cat.default", "y", tensors=["x", "x"], dim=0)],
    "batch behind batch": [node("cat.default", "y", tensors=["x", "x"], dim=-4)],
    "exchanged": [
        node("flip.default", "z", self="x", dims=[0]),
        node("add.Tensor", "y", self="x", other="z"),
    ],
    "attention with dropout": [attention(dropout_p=0.5)],
    "a mask with places": [attention(attn_mask="mask")],
    "a running sum": [node("cumsum.default", "y", self="x", dim=0)],
    "softmax over the batch": [node("softmax.int", "y", self="x", dim=0)],
    "the number of rows": [
        node("mean.dim", "z", self="x", dim=[1, 2, 3], keepdim=True),
        node("ones_like.default", "u", self="z"),
        node("sum.dim_IntList", "v", self="u", dim=[0], keepdim=True),
        node("cumsum.default", "t", self="u", dim=0),
        node("mul.Tensor", "s", self="x", other="v"),
        node("mul.Tensor", "y", self="s", other="t"),
    ],
    "a name taken": [
        node("flip.default", "one", self="x", dims=[0]),
        node("add.Tensor", "y", self="x", other="one"),
    ],
    "weights of rows": [
        node("mean.dim", "z", self="x", dim=[0]),
        node("mul.Tensor", "y", self="x", other="z"),
    ],
}


@pytest.mark.parametrize("nodes", ALONE.values(), ids=ALONE)
def test_operators_on_single_rows_are_believed(nodes: list[dict[str, Any]]) -> None:
    made = program(*nodes)
    assert is_row_wise(made)
    assert not mixes(made)


@pytest.mark.parametrize("nodes", MIXED.values(), ids=MIXED)
def test_what_mixes_rows_is_tried(nodes: list[dict[str, Any]]) -> None:
    made = program(*nodes)
    assert mixes(made)
    assert not is_row_wise(made)


def test_what_is_not_known_is_tried() -> None:
    flat = node("flatten.using_ints", "y", self="x", start_dim=0)
    drop = node("dropout.default", "y", input="x", p=0.5, train=True)
    size = node("sym_size.int", "n", self="x", dim=0)
    by_size = node("mul.Tensor", "y", self="x", other="n")
    weight = node("relu_.default", "y", self="one")
    vector = node("linear.default", "v", input="x", weight="channel")  # has an axis less
    by_place = node("mul.Tensor", "y", self="x", other="v")
    for nodes in ([flat], [drop], [size, by_size], [weight], [vector, by_place]):
        assert not is_row_wise(program(*nodes))
    assert not is_row_wise(Pt2Program([node("relu.default", "y", self="x")], {}, "x", "y"))
    assert not is_row_wise(Pt2Program([], CONSTANTS, "x", "w"))
