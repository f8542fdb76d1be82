import torch
from torch import Tensor, nn

from dualsmooth.engine.train.radii import cross_fitted_radii, true_class_radii


class HalfSpace(nn.Module):
    """Class 1 where the first pixel is above 0.5: its exact radius is |x_0 - 0.5|."""

    def forward(self, x: Tensor) -> Tensor:
        margin = x.flatten(1)[:, 0] - 0.5
        return torch.stack([-margin, margin], 1)


def test_radii_of_a_half_space() -> None:
    x = torch.rand(5, 1, 2, 2)
    x[:, 0, 0, 0] = torch.tensor([0.1, 0.3, 0.5, 0.6, 0.9])
    labels = torch.tensor([0, 0, 1, 1, 0])
    g = torch.Generator().manual_seed(0)
    radii = true_class_radii(HalfSpace(), x, labels, 0.4, 20_000, g)
    expected = torch.tensor([0.4, 0.2, 0.0, 0.1, -0.4])
    assert torch.allclose(radii, expected, atol=0.02)


def test_votes_need_not_fill_a_pass() -> None:
    """Unanimous votes reach the radius of the shrunk share, and none is counted twice."""
    for votes in (1, 7, 1024, 1500):
        x = torch.full((3, 1, 1, 1), 100.0)
        radii = true_class_radii(
            HalfSpace(), x, torch.tensor([1, 1, 0]), 1.0, votes, torch.Generator()
        )
        share = torch.tensor((votes + 0.5) / (votes + 1))
        assert torch.allclose(radii[:2], torch.special.ndtri(share), atol=1e-3)
        assert radii[2] < 0


def test_no_image_is_judged_by_a_network_that_saw_it() -> None:
    images = torch.arange(40.0).view(40, 1, 1, 1)
    labels = torch.zeros(40, dtype=torch.int64)

    class Remembers(nn.Module):
        """Class 0 exactly for the images it was trained on."""

        def __init__(self, seen: Tensor) -> None:
            super().__init__()
            self.seen = seen.flatten()

        def forward(self, x: Tensor) -> Tensor:
            known = (x.flatten()[:, None] - self.seen).abs().min(1).values < 0.4
            return torch.stack([known.float(), 1 - known.float()], 1)

    radii = cross_fitted_radii(
        lambda x, y: Remembers(x),
        images,
        labels,
        sigma=0.01,
        folds=4,
        votes=20,
        generator=torch.Generator().manual_seed(0),
    )
    assert (radii < 0).all()
    own = true_class_radii(Remembers(images), images, labels, 0.01, 20, torch.Generator())
    assert (own > 0).all()
