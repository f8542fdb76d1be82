import pytest
import torch
from torch import Tensor

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.architectures.ordered import OrderedScore
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.train.loop import Schedule
from dualsmooth.engine.train.selector import (
    SelectorLoss,
    copy_features,
    cut_gains,
    rarity,
    train_selector,
)
from dualsmooth.engine.train.utility import PUBLISHED, utility_of

NEAR = "R + 4 min(R, 0.5)"


def test_rarity_gives_every_level_the_same_weight() -> None:
    radii = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert torch.allclose(rarity(radii), torch.tensor([4 / 3, 4 / 3, 4 / 3, 4.0]))


def test_a_gain_is_what_a_wrong_side_of_the_cut_costs() -> None:
    gains = cut_gains(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.5, 4.0]]))
    assert torch.equal(gains, torch.tensor([[2.0, -1.0], [4.0, 3.5]]))


def taught(
    radii: Tensor, brightness: Tensor, utility: str, terms: SelectorLoss | None = None
) -> Tensor:
    """Level that a selector taught with these radii picks for images of so bright a grey."""
    torch.manual_seed(0)
    x = brightness.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    levels = radii.shape[1]
    outputs = levels if utility == PUBLISHED else 1
    module = create("small_convnet", {"num_classes": outputs, "widths": [4], "hidden": 8})
    if outputs == 1:
        module = OrderedScore(module, [2.0 * cut - levels + 2 for cut in range(levels - 1)])
    schedule = Schedule(epochs=40, affine=None, batch=32, peak_rate=1e-2)
    chosen, generator = terms or SelectorLoss(), torch.Generator().manual_seed(0)
    train_selector(module, x, radii, 0.2, utility, chosen, schedule, generator)
    noise = 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        winners: Tensor = module(x + noise).argmax(1)
    return winners


@pytest.mark.parametrize(
    ("utility", "terms"),
    [
        (PUBLISHED, SelectorLoss(pull=40.0)),
        (NEAR, SelectorLoss()),
        (NEAR, SelectorLoss(soft=0.2)),
        ("relative", SelectorLoss()),
        ("acr", SelectorLoss()),
        ("0:1, 0.25:2", SelectorLoss()),
    ],
)
def test_the_selector_learns_which_level_certifies(utility: str, terms: SelectorLoss) -> None:
    """Bright images are certified at level 1 only, dark ones at level 0 only."""
    bright = torch.arange(128) % 3 == 0  # the rarer kind
    radii = torch.stack([torch.where(bright, -1.0, 0.4), torch.where(bright, 0.4, -1.0)], 1)
    right = taught(radii, torch.where(bright, 0.9, 0.1), utility, terms) == bright.long()
    assert right.float().mean() > 0.95


@pytest.mark.parametrize("levels", [3, 4])
def test_levels_in_order_are_learnt_by_one_score(levels: int) -> None:
    kinds = torch.arange(128) % levels
    radii = torch.where(torch.nn.functional.one_hot(kinds, levels) > 0, 0.5, -1.0)
    right = taught(radii, kinds / (levels - 1), NEAR) == kinds
    assert right.float().mean() > 0.9


@pytest.mark.parametrize(("utility", "level"), [("acr", 1), ("R + 4 min(R, 0.5)", 0)])
def test_the_utility_decides_where_levels_are_better_at_different_radii(
    utility: str, level: int
) -> None:
    """Half of the images are lost at level 1, which certifies three times the radius."""
    radii = torch.tensor([[0.5, 1.5], [0.5, -1.0]]).repeat(64, 1)
    assert (taught(radii, torch.full((128,), 0.5), utility) == level).float().mean() > 0.95


@pytest.mark.parametrize("text", ["R", "0:1,", "0:-1", "0:0", "0:nan", "R + x min(R, 1)", ""])
def test_a_utility_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ArgumentError, match="utility must be acr, relative"):
        utility_of(text, torch.ones(1, 1))


def test_what_utilities_say() -> None:
    radii = torch.tensor([[-1.0, 0.3], [0.6, 2.0]])
    assert torch.allclose(utility_of("acr", radii)(radii), radii.clamp(min=0))
    near = torch.tensor([[0.0, 1.5], [2.6, 4.0]])
    assert torch.allclose(utility_of(NEAR, radii)(radii), near)
    assert utility_of("0:1,0.5:2", radii)(radii).tolist() == [[0.0, 1.0], [3.0, 3.0]]
    relative = utility_of("relative", radii)(radii)
    assert relative[0].tolist() == [0.0, 2.0]  # the best level certifies both at 0 and 0.25
    assert relative[1, 0] == 2 + 2  # and one of two at 0.5


def test_joint_votes_learn_levels_and_the_answers_of_a_teacher() -> None:
    """Brightness decides the level, the left or the right half the class; some are no use."""
    torch.manual_seed(0)
    bright, right = torch.arange(128) % 3 == 0, torch.arange(128) % 2 == 0
    x = torch.full((128, 1, 8, 8), 0.1)
    x[bright] = 0.9
    x[right, :, :, 4:] += 0.5
    radii = torch.stack([torch.where(bright, -1.0, 0.4), torch.where(bright, 0.4, -1.0)], 1)
    radii[:5] = -1.0

    class Halves(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
            return 40 * torch.stack([left + 0.25, right, torch.zeros_like(left)], 1)

    network = create("small_convnet", {"num_classes": 4, "widths": [4], "hidden": 8})
    module = OrderedScore(network, [0.0], joint=True)
    schedule = Schedule(epochs=40, affine=None, batch=32, peak_rate=1e-2)
    generator = torch.Generator().manual_seed(0)
    train_selector(
        module, x, radii, 0.2, NEAR, SelectorLoss(), schedule, generator, teacher=Halves()
    )
    noise = 0.2 * torch.randn(x.shape, generator=generator)
    with torch.no_grad():
        pairs = module(x + noise).argmax(1)
    assert (pairs // 3 == bright).float().mean() > 0.95
    assert (pairs % 3 == right).float().mean() > 0.95


def test_a_joint_network_begins_with_the_answers_of_the_expert() -> None:
    torch.manual_seed(0)
    expert, network = (
        create("small_convnet", {"num_classes": n, "widths": [4], "hidden": 8}).eval()
        for n in (3, 4)
    )
    copy_features(expert, network, joint=True)
    x = torch.rand(5, 1, 8, 8)
    assert torch.allclose(network(x)[:, :3], expert(x), atol=1e-6)


def test_images_that_no_level_certifies_teach_nothing() -> None:
    with pytest.raises(ArgumentError, match="some level classifies"):
        taught(torch.full((4, 2), -0.1), torch.rand(4), NEAR)
