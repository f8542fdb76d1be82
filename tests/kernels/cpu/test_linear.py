"""Compiled linear layers against sums in float32 in the same order, to the bit."""

import copy
import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from dualsmooth.kernels.cpu import linear
from dualsmooth.kernels.cpu.linear import MOST_INPUTS, Linear, LinearChain
from dualsmooth.kernels.errors import KernelArgumentError

pytestmark = pytest.mark.skipif(
    not linear.available(), reason="needs the compiled loops and AVX-512"
)

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


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 8, 12, 16, 45])
def test_outputs_are_one_chain_of_sums_and_the_bias(sizes: tuple[int, ...], count: int) -> None:
    parts, x = layers(sizes), rows(count, sizes[0])
    chain = LinearChain(parts)
    assert torch.equal(chain(x), in_turn(parts, x))
    assert torch.equal(copy.deepcopy(chain)(x.flip(0)).flip(0), chain(x))


@pytest.mark.parametrize("inputs", [1, 128, 400, MOST_INPUTS])
def test_bits_are_those_of_the_operator_in_whose_place_it_stands(inputs: int) -> None:
    (part,), x = layers((inputs, 20)), rows(64, inputs)
    packed = torch.ops.mkldnn._reorder_linear_weight(part.weight, 64)
    wanted = torch.ops.mkldnn._linear_pointwise.default(x, packed, part.bias, "none", [], "")
    assert torch.equal(LinearChain([part])(x), wanted)


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


@pytest.fixture
def broken(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The loops with one text put in place of another that stands there once."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    old, new = request.param
    text = (SOURCES / "linear.h").read_text()
    assert text.count(old) == 1, old
    before = '#define TARGET "avx512f"\n#include "lanes.h"\n'
    (tmp_path / "loops.c").write_text(before + text.replace(old, new))
    options = ["-O1", "-ffp-contract=off", "-fPIC", "-shared", "-I", str(SOURCES)]
    library = tmp_path / "loops.so"
    subprocess.run([compiler, *options, str(tmp_path / "loops.c"), "-o", str(library)], check=True)
    monkeypatch.setattr(linear, "compiled", {"direct_conv": ctypes.CDLL(str(library))}.get)
    linear._library.cache_clear()
    yield
    monkeypatch.undo()
    linear._library.cache_clear()


def same() -> bool:
    cases = [(sizes, rows(count, sizes[0])) for sizes in SIZES for count in (7, 16, 45)]
    return all(torch.equal(LinearChain(p)(x), in_turn(p, x)) for s, x in cases if (p := layers(s)))


@pytest.mark.parametrize("broken", [("int64_t first = 0", "int64_t first = 0")], indirect=True)
def test_the_loops_as_they_are_pass(broken: None) -> None:
    assert same()


@pytest.mark.parametrize(
    "broken",
    [
        ("_mm512_setzero_ps();", "_mm512_loadu_ps(bias + i % 2 * LANES);"),
        ("_mm512_max_ps(floor, sum)", "sum"),
        ("first_of(outputs), ", "first_of(outputs - 1), "),
        ("in[row * l->inputs + k]", "in[row * l->inputs + k / 2 * 2]"),
        ("left < 12 || left == 16 ? 8", "left < 12 || left == 16 ? 9"),
        ("scratch += rows * l->outputs;", ""),
        ("first * l->inputs;", "0;"),
    ],
    ids=["bias first", "no ReLU", "mask", "input twice", "rows left out", "overwritten", "block"],
    indirect=True,
)
def test_broken_loops_are_found(broken: None) -> None:
    assert not same()
