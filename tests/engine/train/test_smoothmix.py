import torch
from torch import Tensor, nn

from dualsmooth.engine.train.losses import SmoothMix, _adversarial, smoothmix_loss


class HalfSpace(nn.Module):
    """Class 1 where the first pixel is above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.norm = nn.BatchNorm1d(1, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(x.flatten(1)[:, :1])
        margin = self.scale * x.flatten(1)[:, 0]
        return torch.stack([-margin, margin], 1)


def example() -> tuple[HalfSpace, Tensor, Tensor]:
    x = torch.zeros(3, 1, 2, 2)
    x[:, 0, 0, 0] = torch.tensor([0.4, -0.3, 0.1])
    return HalfSpace().train(), x, torch.eye(2)[[1, 0, 1]]


def test_steps_go_straight_away_from_the_true_class() -> None:
    module, x, targets = example()
    options = SmoothMix(steps=3, length=0.5)
    before = module.norm.state_dict()["num_batches_tracked"].clone()
    moved = _adversarial(module, x, targets, 0.4, options, torch.Generator().manual_seed(0)) - x
    expected = torch.zeros_like(x)
    expected[:, 0, 0, 0] = 3 * 0.5 * 0.4 * torch.tensor([-1.0, 1.0, -1.0])
    assert torch.allclose(moved, expected, atol=1e-6)
    assert module.training
    assert torch.equal(module.norm.state_dict()["num_batches_tracked"], before)


def test_levels_per_image_scale_the_steps() -> None:
    module, x, targets = example()
    sigma = torch.tensor([0.1, 0.2, 0.4]).view(-1, 1, 1, 1)
    options = SmoothMix(steps=1, length=1.0)
    moved = _adversarial(module, x, targets, sigma, options, torch.Generator().manual_seed(0)) - x
    assert torch.allclose(moved.flatten(1).norm(dim=1), sigma.flatten(), atol=1e-6)


def test_the_loss_trains_and_has_its_natural_part() -> None:
    module, x, targets = example()
    value = smoothmix_loss(module, x, targets, 0.4, SmoothMix(), torch.Generator().manual_seed(0))
    value.backward()  # type: ignore[no-untyped-call]
    assert module.scale.grad is not None
    assert module.scale.grad.isfinite()
    alone = smoothmix_loss(
        module, x, targets, 0.4, SmoothMix(weight=0.0), torch.Generator().manual_seed(0)
    )
    assert 0 < alone.item() < value.item()
