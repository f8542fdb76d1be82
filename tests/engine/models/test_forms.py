"""Every form of a network is proved against the network itself, or another is taken."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.models.forms import first_proved
from dualsmooth.engine.models.logits import RowByRow
from dualsmooth.engine.models.rows import BOUNDS, close, fault, noisy

SHAPE = (5, 3, 3)
BATCH = noisy(32, SHAPE)


class Net(nn.Module):
    """A small network; a thousand on all logits, so that their size hides what moves."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.activation = nn.Conv2d(3, 7, 3), activation or nn.ReLU()
        self.head = nn.Linear(21, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.activation(self.conv(x)).flatten(1))
        return logits + 1000.0


def changed(change: Callable[[Net], object]) -> nn.Module:
    net = copy.deepcopy(Net().eval())
    with torch.no_grad():
        change(net)
    return net


class Wrapped(nn.Module):
    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net, self.body, self.calls = Net().eval(), forward, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.body(self, x)


def drifting(made: Any, x: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = made.net(x) + 0.01 * (made.calls - 1) * torch.arange(4)
    return logits


WRONG: dict[str, Callable[[], nn.Module]] = {
    "a weight": partial(changed, lambda net: net.head.weight[0, 0].add_(0.01)),
    "a bias": partial(changed, lambda net: net.head.bias[1].sub_(0.01)),
    "precision": partial(changed, lambda net: net.conv.weight.copy_(net.conv.weight.bfloat16())),
    "a constant": lambda: Wrapped(lambda m, x: m.net(x) + torch.tensor([0, 0, 0, 0.01])),
    "drift": lambda: Wrapped(drifting),
    "batch mates": lambda: Wrapped(lambda m, x: m.net(x) + 1e-4 * x.amax()),
    "one place": lambda: Wrapped(
        lambda m, x: torch.cat([m.net(x[:-1]), m.net(x[-1:]).nextafter(torch.tensor(9e9))])
    ),
    "order": lambda: Wrapped(lambda m, x: m.net(x.flip(0))),
    "an error": lambda: Wrapped(lambda m, x: m.net(x[:, :2])),
    "another shape": lambda: Wrapped(lambda m, x: m.net(x)[:, :3]),
    "bright rows only": lambda: Wrapped(
        lambda m, x: m.net(torch.where(x.amin((1, 2, 3), keepdim=True) > 99, x * 0, x))
    ),
}  # fmt: skip


@pytest.mark.parametrize("start", [1, 20, 63])
def test_rows_of_all_places_are_compared(start: int) -> None:
    """Of 64 rows the first 20 trade places among themselves, and so do the others."""
    network = Net().eval()
    made = Wrapped(lambda m, x: torch.cat([m.net(x[:start]), 1.01 * m.net(x[start:])]))
    with pytest.warns(UserWarning, match="network m runs as it is: fused, "):
        first_proved("m", network, noisy(64, SHAPE), [("fused", lambda: made)])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_small_batches_are_no_reason_to_refuse_a_form(rows: int) -> None:
    """Their rows alone do not show how far logits move: rounding was more than that."""
    network = Wrapped(lambda m, x: m.net(x) - 1000)
    rounded = Wrapped(lambda m, x: (m.net(x) - 1000) * (1 + 2**-18))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = noisy(rows, SHAPE)
        assert first_proved("m", network, batch, [("fused", lambda: rounded)]) is rounded


@pytest.mark.parametrize(("rows", "passed"), [(1, 9), (2, 9), (8, 12), (16, 24), (64, 32)])
def test_a_proof_passes_no_more_rows_of_the_network_than_it_needs(rows: int, passed: int) -> None:
    seen = list[int]()

    class Counted(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return super().forward(x)

    first_proved("m", Counted().eval(), noisy(rows, SHAPE), [("fused", lambda: Net().eval())])
    assert sum(seen) == passed


@pytest.mark.parametrize("fault_of_form", WRONG)
def test_a_form_that_is_not_the_network_is_not_taken(fault_of_form: str) -> None:
    network, made = Net().eval(), WRONG[fault_of_form]()
    with pytest.warns(UserWarning, match="network m runs as it is: fused, "):
        taken = first_proved("m", network, BATCH, [("fused", lambda: made)])
    assert torch.equal(taken(BATCH), network(BATCH.contiguous()))


def test_rounding_is_let_pass_without_a_word() -> None:
    network = Net().eval()
    rounded = changed(lambda net: net.head.weight.mul_(1 + 2.0**-22))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first_proved("m", network, BATCH, [("fused", lambda: rounded)]) is rounded


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.ELU()])
@pytest.mark.parametrize("rows", [1, 7, 13, 31, 32])
def test_odd_rows_have_a_form_whose_votes_stay(activation: nn.Module, rows: int) -> None:
    """Vectorised functions and the scalar ones for what is left over differ in the last bit."""
    network, batch = Net(activation).eval(), noisy(rows, SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = first_proved("m", network, batch, [])
    with torch.inference_mode():
        assert fault(taken, batch) == ""


def test_a_network_that_no_form_saves_is_refused() -> None:
    network = Wrapped(lambda m, x: m.net(x) - m.net(x).mean(0)).eval()
    with pytest.raises(SamplerError, match=r"^m: a row's logits must not depend .*row by row, oth"):
        first_proved("m", network, BATCH, [])


def test_rows_one_by_one_are_rows() -> None:
    network = Net().eval()
    found = RowByRow(network)(BATCH)
    torch.testing.assert_close(found, network(BATCH.contiguous()))
    assert fault(RowByRow(network), BATCH) == ""


def test_closeness_is_relative_to_what_moves() -> None:
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    for offset in (0.0, 1000.0):
        agree = close(BOUNDS[torch.float32], logits + offset)
        assert agree(logits + offset, logits + offset)
        other = logits + offset
        other[2, 1] += 2e-3
        assert not agree(other, logits + offset)
    assert not close(1.0, logits)(torch.full_like(logits, float("nan")), logits)
    assert close(1.0, logits)(logits.log(), logits.log())
