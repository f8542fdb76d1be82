from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.train.checkpoints import Checkpoints
from dualsmooth.engine.train.context import TrainingContext
from dualsmooth.engine.train.loop import Step
from dualsmooth.engine.train.radii import Labelling, radii_of, selected_shares, true_class_radii


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


class TwoRivals(nn.Module):
    """Class 0 where the first pixel is below 0.5; above it, 1 or 2 by the sign of the second."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.flatten(1)[:, :2].T
        return torch.stack([torch.zeros_like(first), first - 0.5, first - 0.5], 1) + torch.stack(
            [torch.zeros_like(first), 1e-6 * second, -1e-6 * second], 1
        )


def test_the_runner_up_radius_of_split_rivals() -> None:
    """Half the misses for each rival: sigma/2 (z(p) - z((1 - p)/2)), more than sigma z(p)."""
    x, labels = torch.zeros(1, 1, 1, 2), torch.tensor([0])
    x[..., 0] = 0.3
    g = torch.Generator().manual_seed(0)
    radius = true_class_radii(TwoRivals(), x, labels, 0.4, 40_000, g, runner_up=True)
    p = torch.special.ndtr(torch.tensor(0.5))
    expected = 0.2 * (0.5 - torch.special.ndtri((1 - p) / 2))
    assert torch.allclose(radius, expected, atol=0.01)
    assert expected > 0.25  # sigma z(p) is 0.2


def test_with_two_classes_both_radii_are_one() -> None:
    x, labels = torch.full((4, 1, 1, 1), 0.3), torch.tensor([0, 0, 1, 1])
    plain, rival = (
        true_class_radii(HalfSpace(), x, labels, 0.4, 99, torch.Generator().manual_seed(0), way)
        for way in (False, True)
    )
    assert torch.allclose(plain, rival, atol=1e-6)


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


def test_kept_radii_are_not_voted_for_again(tmp_path: Path) -> None:
    """The random source goes on where it was, so what follows is the same too."""
    step = Step("radii", Checkpoints(tmp_path / "run", {}))
    x, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    first, again = torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)
    radii = radii_of(HalfSpace(), x, labels, 0.5, Labelling(50), first, step)
    assert torch.equal(radii, radii_of(nn.Identity(), x, labels, 0.5, Labelling(50), again, step))
    assert torch.equal(first.get_state(), again.get_state())


class BatchMean(HalfSpace):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean())


class Flip(HalfSpace):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.flip(x, [3]) if torch.rand(()) < 0.5 else x)


class Counter(HalfSpace):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x + self.calls)


@pytest.mark.parametrize("kind", [BatchMean, Flip, Counter])
def test_a_network_that_no_bundle_takes_labels_nothing(
    tmp_path: Path, kind: type[HalfSpace]
) -> None:
    step = Step("radii", Checkpoints(tmp_path / "run", {}))
    x, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(FileError, match="labelling network must"):
        radii_of(kind().eval(), x, labels, 0.5, Labelling(50), torch.Generator(), step)


def test_shares_of_a_selector() -> None:
    x = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1)
    shares = selected_shares(HalfSpace(), x, 0.4, 2000, torch.Generator().manual_seed(0))
    expected = torch.special.ndtr(torch.tensor([-1.0, 0.0, 1.0]))
    assert torch.allclose(shares[:, 1], expected, atol=0.04)
    assert torch.allclose(shares.sum(1), torch.ones(3))


def test_masks_of_images_to_label() -> None:
    images = np.zeros((31, 2, 2, 1), np.uint8)
    context = TrainingContext(ImageSet(images, np.zeros(31, np.int64), "zeros", ("a",)))
    folds = Labelling(8, folds=3).held(context, 0, torch.Generator())
    assert torch.equal(torch.stack(folds).sum(0), torch.ones(31, dtype=torch.int64))
    one, same = (Labelling(8).held(context, level, torch.Generator()) for level in (0, 1))
    assert int(one[0].sum()) == 10
    assert torch.equal(one[0], same[0])
    with pytest.raises(ArgumentError, match="held_out"):
        Labelling(8, held_out=1.0)
