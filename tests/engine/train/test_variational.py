from dataclasses import replace
from math import log

import pytest
import torch

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.train.context import Sizes, TrainingContext
from dualsmooth.engine.train.run import run
from dualsmooth.engine.train.variational import VARIATIONAL, divergence_per_dimension
from tests.engine.train.test_dual import few_digits

TINY = replace(VARIATIONAL, schedule=replace(VARIATIONAL.schedule, epochs=1))


@pytest.mark.parametrize(("level", "target"), [(0.5, 0.5), (0.25, 1.0), (1.3, 0.7)])
def test_divergence_is_that_of_the_normal_laws(level: float, target: float) -> None:
    """Against PyTorch's, in d dimensions, divided by d."""
    d = 7
    first, second = (
        torch.distributions.MultivariateNormal(torch.zeros(d), s**2 * torch.eye(d))
        for s in (level, target)
    )
    expected = torch.distributions.kl_divergence(first, second) / d
    found = divergence_per_dimension(torch.tensor([log(level)]), target)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_short_run_certifies_as_a_median_selector() -> None:
    data = few_digits()
    bundle = run(TINY, data)
    assert run(TINY, data).digest == bundle.digest
    found = certify(
        DualSmoothing(bundle), data.images[:3], budget=Budget.fixed(20, 50), precision="fp32"
    )
    assert len(found) == 3


@pytest.mark.slow
def test_the_divergence_holds_the_level_at_the_target() -> None:
    """With a large weight H follows the target it is given; without it, it does not."""
    x = torch.from_numpy(few_digits().images).permute(0, 3, 1, 2) / 255
    spread = []
    for weight in (0.0, 30.0):
        recipe = replace(
            TINY, divergence=weight, schedule=replace(TINY.schedule, epochs=30, batch=32)
        )
        context = TrainingContext(few_digits(), sizes=Sizes((8, 16), 32))
        selector = recipe.make(context).build("selector")
        with torch.no_grad():
            low, high = (selector.log_level(x, t).mean() for t in (0.25, 1.0))  # type: ignore[operator]
        spread.append(float(high - low))
    assert spread[1] > 0.6
    assert abs(spread[0]) < spread[1] / 2
