"""Compiled linear layers against sums in float32 in the same order, to the bit."""

import copy
import ctypes
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dualsmooth.kernels.cpu import linear
from dualsmooth.kernels.cpu.linear import MOST_INPUTS, Linear, LinearChain
from dualsmooth.kernels.errors import KernelArgumentError

SOURCES = Path(linear.__file__).parent
SIZES = [(1, 1), (5, 16, 10), (37, 33, 70, 3), (MOST_INPUTS, 31, 64)]
"""Inputs of each layer, and the outputs of the last."""


def layers(sizes: tuple[int, ...]) -> list[Linear]:
    generator = torch.Generator().manual_seed(len(sizes))
    return [
        Linear(
            torch.randn(outputs, inputs, generator=generator),
            torch.randn(outputs, generator=generator) if outputs % 3 else None,
            relu=outputs != sizes[-1],
        )
        for inputs, outputs in pairwise(sizes)
    ]


def rows(count: int, inputs: int) -> torch.Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(count))


def in_turn(parts: list[Linear], x: torch.Tensor) -> torch.Tensor:
    """Each product and sum exact in float64, then rounded once: a fused multiply-add."""
    for part in parts:
        sums = torch.zeros(len(x), len(part.weight))
        for value, weight in zip(x.double().T, part.weight.double().T, strict=True):
            sums = (sums.double() + value[:, None] * weight).float()
        x = sums if part.bias is None else sums + part.bias
        x = x.relu() if part.relu else x
    return x


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 8, 12, 16, 45])
def test_outputs_are_one_chain_of_sums_and_the_bias(sizes: tuple[int, ...], count: int) -> None:
    parts, x = layers(sizes), rows(count, sizes[0])
    chain = LinearChain(parts)
    assert torch.equal(chain(x), in_turn(parts, x))
    assert torch.equal(copy.deepcopy(chain)(x.flip(0)).flip(0), chain(x))


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("inputs", [1, 128, 400, MOST_INPUTS])
def test_outputs_are_those_of_the_operator_in_whose_place_it_stands(inputs: int) -> None:
    """To a few roundings: which sums oneDNN makes is its own affair (today, these)."""
    (part,), x = layers((inputs, 20)), rows(64, inputs)
    packed = torch.ops.mkldnn._reorder_linear_weight(part.weight, 64)
    wanted = torch.ops.mkldnn._linear_pointwise.default(x, packed, part.bias, "none", [], "")
    most = 2**-20 * (x.abs() @ part.weight.abs().T).max().item()
    torch.testing.assert_close(LinearChain([part])(x), wanted, rtol=0, atol=most)


@pytest.mark.usefixtures("width")
def test_a_lost_value_is_not_clipped_away() -> None:
    x = torch.full((13, 2), float("nan"))
    assert LinearChain([Linear(torch.ones(3, 2), None, relu=True)])(x).isnan().all()


def test_wrong_layers_and_inputs_are_named() -> None:
    wide = Linear(torch.ones(3, MOST_INPUTS + 1), None, relu=False)
    for parts in ([wide], [*layers((4, 3)), *layers((4, 3))]):
        with pytest.raises(KernelArgumentError, match=r"^layers must have at most 512 inputs"):
            LinearChain(parts)
    for x in (rows(2, 5), rows(2, 4).double(), rows(2, 4)[0]):
        with pytest.raises(KernelArgumentError, match=r"^x must be float32 \(rows, 4\)"):
            LinearChain(layers((4, 3)))(x)


BROKEN = {
    "as they are": ("", ""),
    "bias first": ("all(0.0f);", "load(bias + i % 2 * LANES);"),
    "no ReLU": ("at_least(floor, sum)", "sum"),
    "mask": ("first_of(outputs), ", "first_of(outputs - 1), "),
    "input twice": ("in[row * l->inputs + k]", "in[row * l->inputs + k / 2 * 2]"),
    "rows left out": ("left == 2 * FEWER ? FEWER", "left == 2 * FEWER ? FEWER + 1"),
    "overwritten": ("scratch += rows * l->outputs;", ""),
    "block": ("first * l->inputs;", "0;"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The loops once for each way to break them, with its number in all their names."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder, text = tmp_path_factory.mktemp("linear"), (SOURCES / "linear.h").read_text()
    parts = ['#define LANES 8\n#include "lanes.h"\n']
    for number, (old, new) in enumerate(BROKEN.values()):
        assert not old or text.count(old) == 1, old
        parts.append((text.replace(old, new) if old else text).replace("linear", f"linear{number}"))
    (folder / "loops.c").write_text("".join(parts))
    options = ["-O1", "-ffp-contract=off", "-fPIC", "-shared", "-I", str(SOURCES)]
    library = str(folder / "loops.so")
    subprocess.run([compiler, *options, str(folder / "loops.c"), "-o", library], check=True)
    return ctypes.CDLL(library)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_loops_are_found(
    name: str, built: ctypes.CDLL, use_width: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_width(8)
    right, loops = linear._library(), SimpleNamespace()
    assert right is not None
    loops.dualsmooth_linear_chain = built[f"dualsmooth_linear{list(BROKEN).index(name)}_chain"]
    loops.dualsmooth_linear_chain.argtypes = right.dualsmooth_linear_chain.argtypes
    monkeypatch.setattr(linear, "_library", lambda: loops)
    cases = [(layers(sizes), rows(count, sizes[0])) for sizes in SIZES for count in (7, 16, 45)]
    same = all(torch.equal(LinearChain(parts)(x), in_turn(parts, x)) for parts, x in cases)
    assert same == (name == "as they are")
