"""Errors of other libraries, told on one line; some have no words."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.inputs import share


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (AssertionError(), "AssertionError"),
        (RuntimeError("\n"), "RuntimeError"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (KeyError("x" * 500), "KeyError: '" + 199 * "x"),
    ],
)
def test_a_reason_is_one_short_line(error: Exception, line: str) -> None:
    assert reason_of(error) == line


def test_paths_are_shown_as_they_were_given() -> None:
    assert str(ArgumentError("out", "must not be there", Path("a/b"))).endswith("received a/b")
    assert str(ArgumentError("data", "must be a SPEC", "")).endswith("received ''")


def cut_elsewhere(text: str) -> list[str]:
    """Lines that make one line of an error by themselves; `reason_of` is for that."""
    cuts = re.compile(r"str\((error|exc|err|e|problem)\)\)?(\.(splitlines|split|partition)|\[:)")
    return [line.strip() for line in text.splitlines() if cuts.search(line)]


def test_errors_of_others_are_told_by_one_function() -> None:
    root = Path(__file__).parents[2]
    found = {
        file.relative_to(root).as_posix()
        for top in ("engine", "kernels", "export", "benchmarks")
        for file in (root / top).rglob("*.py")
        if cut_elsewhere(file.read_text("utf-8"))
    }
    assert found == {"engine/errors.py"}
    assert cut_elsewhere('said = (str(error).splitlines() or [""])[0][:200]')


class Silent(torch.nn.Module):
    """Fails as `assert` and `raise RuntimeError` do, without a word."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError


def test_a_network_that_fails_without_a_word_is_refused_in_one_line() -> None:
    with pytest.raises(ArgumentError, match=r"precision must suit the network .RuntimeError"):
        CpuSampler({"classifier": Silent()}, {"classifier": 2}, (4, 4, 1), seed=0, batch_size=2)


class Large(torch.nn.Module):
    """Asks for more memory than there is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 60)


def test_a_batch_beyond_memory_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"^batch_size must fit into memory .*; received 2$"):
        CpuSampler({"classifier": Large()}, {"classifier": 2}, (4, 4, 1), seed=0, batch_size=2)


class Unwilling:
    def __dlpack__(self) -> object:
        raise AssertionError

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def test_an_array_that_refuses_without_a_word_is_refused_in_one_line() -> None:
    with pytest.raises(ArgumentError, match=r"image must be shareable by DLPack.*AssertionError"):
        share(Unwilling(), "image")
    assert share(np.zeros(3), "image").shape == (3,)
