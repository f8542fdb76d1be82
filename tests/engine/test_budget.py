import math

import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cli.options import budget_from_options
from dualsmooth.engine.errors import ArgumentError


def test_kinds_and_defaults() -> None:
    assert Budget.fixed() == Budget(100, 10_000)
    assert [b.kind for b in (Budget.fixed(), Budget.decide([0.5]), Budget.precise())] == [
        "fixed", "decide", "precise",
    ]  # fmt: skip
    assert (Budget.precise().n0, Budget.precise().tolerance) == (500, 0.05)
    assert Budget.decide([0.25, 0.5]).radii == (0.25, 0.5)


@pytest.mark.parametrize("radii", [[], [0.5, 0.25], [0.5, 0.5], [0.0], [-1.0], [math.nan], ["a"]])
def test_bad_grids(radii: list[float]) -> None:
    with pytest.raises(ArgumentError, match=r"^radii "):
        Budget.decide(radii)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, math.nan, -0.1])
def test_bad_tolerances(tolerance: float) -> None:
    with pytest.raises(ArgumentError, match=r"^tolerance "):
        Budget.precise(tolerance)


def test_a_budget_is_of_one_kind() -> None:
    with pytest.raises(ArgumentError, match=r"^tolerance belongs"):
        Budget(100, 1000, (0.5,), 0.05)


def test_options_of_the_command_line() -> None:
    assert budget_from_options("fixed", None, None, None, 500) == Budget.fixed(100, 500)
    assert budget_from_options("decide", "0.25, 0.5", None, 7, 500) == Budget.decide(
        (0.25, 0.5), 7, 500
    )
    assert budget_from_options("precise", None, None, None, 500) == Budget.precise(0.05, 500, 500)
    assert budget_from_options("precise", None, 0.2, 9, 500) == Budget.precise(0.2, 9, 500)
