import pytest
import torch

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.architectures.ordered import OrderedLevels, OrderedScore
from dualsmooth.engine.models.registry import create

LEVELS = (0.25, 0.5, 1.0)
NETWORK = {
    "architecture": "small_convnet",
    "kwargs": {
        "in_channels": 2,
        "num_classes": 1,
        "image_size": [5, 7],
        "widths": [4],
        "hidden": 8,
    },
}


class First(torch.nn.Module):
    """The first pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :1]


def test_votes_go_to_the_nearest_level_on_a_log_scale() -> None:
    selector = OrderedLevels(First(), LEVELS, 0.5)
    levels = torch.tensor([0.26, 0.34, 0.37, 0.49, 0.70, 0.72, 0.99])
    share = (levels / 0.25).log() / torch.tensor(4.0).log()
    x = share.logit().view(-1, 1, 1, 1)
    assert torch.allclose(selector.log_level(x, 0.5).exp()[:, 0], levels, atol=1e-5)
    assert selector(x).argmax(1).tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_it_is_built_by_name_and_sees_the_target() -> None:
    x = torch.rand(4, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    selector = create("ordered_levels", {**NETWORK, "levels": list(LEVELS), "target": 0.5}).eval()
    assert selector(x).shape == (4, 3)
    assert not torch.allclose(selector.log_level(x, 0.25), selector.log_level(x, 1.0))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("levels", "target"), [((0.5,), 0.5), ((0.5, 0.25), 0.5), ((0.25, 0.5), 0.0)]
)
def test_refused(levels: tuple[float, ...], target: float) -> None:
    with pytest.raises(ArgumentError, match=r"levels|target"):
        create("ordered_levels", {**NETWORK, "levels": levels, "target": target})


class Outputs(torch.nn.Module):
    """The first pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_joint_vote_is_the_pair_of_both_votes(dtype: torch.dtype) -> None:
    """Level by level, with a score that towers over the classes, and what is invalid for both."""
    thresholds = [-4.0, 4.0, 256.0]
    x = torch.randn(4000, 1, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[:, 0, 1, 1] *= 200
    pairs = OrderedScore(Outputs(), thresholds, joint=True).to(dtype)(x)
    scores, classes = x[:, 0, 1, 1], x.flatten(1)[:, :3]
    levels = (scores[:, None] > torch.tensor(thresholds)).sum(1)
    assert pairs.shape == (4000, 12)
    assert pairs.dtype == torch.float32
    assert torch.equal(pairs.argmax(1), 3 * levels + classes.float().argmax(1))
    for broken in (torch.nan, torch.inf):
        for place in range(4):
            y = torch.zeros(1, 1, 2, 2)
            y.view(-1)[place] = broken
            assert not OrderedScore(Outputs(), thresholds, joint=True)(y).isfinite().all()
