from dataclasses import replace

import pytest
import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.train.loop import Schedule
from dualsmooth.engine.train.selector import SelectorLoss, rarity, train_selector

PUBLISHED = SelectorLoss(1.0, 0.0, 40.0, 0.5, of_mean=True, rebalance=True)
ORDERED = SelectorLoss(0.25, 10.0, 0.0, 0.0, near=0.3)


def test_rarity_gives_every_level_the_same_weight() -> None:
    radii = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert torch.allclose(rarity(radii), torch.tensor([4 / 3, 4 / 3, 4 / 3, 4.0]))


@pytest.mark.parametrize("terms", [PUBLISHED, ORDERED], ids=["published", "ordered"])
def test_the_selector_learns_which_level_certifies(terms: SelectorLoss) -> None:
    """Bright images are certified at level 1 only, dark ones at level 0 only."""
    torch.manual_seed(0)
    bright = torch.arange(128) % 3 == 0  # the rarer kind
    x = torch.where(bright, 0.9, 0.1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    radii = torch.stack([torch.where(bright, -1.0, 0.4), torch.where(bright, 0.4, -1.0)], 1)
    module = create("small_convnet", {"num_classes": 2, "widths": [4], "hidden": 8})
    schedule = Schedule(epochs=40, affine=None, batch=32, peak_rate=1e-2)
    train_selector(module, x, radii, 0.2, terms, schedule, torch.Generator().manual_seed(0))
    noise = 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        right = (module(x + noise).argmax(1) == bright.long()).float().mean()
    assert right > 0.95


def test_images_that_no_level_certifies_teach_nothing() -> None:
    module = create("small_convnet", {"num_classes": 2, "widths": [4], "hidden": 8})
    with pytest.raises(ArgumentError, match="some level classifies"):
        train_selector(
            module, torch.rand(4, 1, 8, 8), torch.full((4, 2), -0.1), 0.2, ORDERED,
            Schedule(epochs=1, affine=None), torch.Generator(),
        )  # fmt: skip


@pytest.mark.parametrize(("wrong_costs", "level"), [(False, 1), (True, 0)])
def test_what_a_level_gets_wrong_is_worth_nothing(wrong_costs: bool, level: int) -> None:
    """On images that look alike level 1 certifies 0.45 in the mean, level 0 certifies 0.25.

    Counted with its negative radius, level 1 would be worth -0.05, and the selector would choose
    level 0 for all of them.
    """
    torch.manual_seed(0)
    x = torch.full((64, 1, 8, 8), 0.5)
    radii = torch.tensor([[0.4, 0.9], [0.1, -1.0]]).repeat(32, 1)
    module = create("small_convnet", {"num_classes": 2, "widths": [4], "hidden": 8})
    last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():  # a little on level 1's side: between the levels lies a valley
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 0.5]))
    terms = replace(ORDERED, wrong_costs=wrong_costs)
    schedule = Schedule(epochs=20, affine=None, batch=32, peak_rate=1e-2)
    train_selector(module, x, radii, 1.0, terms, schedule, torch.Generator().manual_seed(0))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (module(x + noise).argmax(1) == level).float().mean() > 0.95
