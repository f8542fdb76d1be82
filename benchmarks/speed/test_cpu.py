"""pytest-benchmark's view of the CPU suite: ours and Cohen et al.'s loop, one network a test."""

from collections.abc import Callable

import pytest

from dualsmooth.benchmarks.speed.cpu import CASES, DEFAULT, check, contestants


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize("contestant", ["ours fp32", "cohen 64"])
def test_votes(benchmark: Callable[..., object], name: str, contestant: str) -> None:
    case = CASES[name]
    draws = dict(contestants(case, ["cohen"]))
    check(draws, case.n)
    benchmark(draws[contestant], case.n)
