from dataclasses import replace

import torch
from torch import Tensor, nn

from dualsmooth.engine.data import ImageSet, load_images
from dualsmooth.engine.train.insta import INSTA, widest_levels
from dualsmooth.engine.train.radii import Labelling
from dualsmooth.engine.train.recipes import run

TINY = replace(
    INSTA,
    classifying=replace(INSTA.classifying, epochs=1),
    tuning=replace(INSTA.tuning, epochs=1),
    selecting=replace(INSTA.selecting, epochs=1),
    labelling=Labelling(votes=8),
)


class Stripe(nn.Module):
    """Class 1 in a stripe of half width 0.5 around 0, with nearly hard probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        margin = 50 * (0.5 - x.flatten(1)[:, 0].abs())
        return torch.stack([-margin, margin], 1)


def test_the_widest_margin_has_its_own_level_per_image() -> None:
    """In the middle of the stripe large noise leaves it, far outside large noise pays."""
    x = torch.tensor([0.0, 5.0]).view(2, 1, 1, 1)
    found = widest_levels(Stripe(), x, (0.2, 0.8), 400, torch.Generator().manual_seed(0))
    assert torch.allclose(found, torch.tensor([0.2, 0.8]))


def test_levels_share_their_noise_and_the_source_moves_on() -> None:
    source, once = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    x = torch.zeros(3, 1, 2, 2)
    widest_levels(Stripe(), x, (0.2, 0.4, 0.8), 5, source)
    torch.randn((15, 1, 2, 2), generator=once)
    assert torch.equal(source.get_state(), once.get_state())


def test_a_short_run() -> None:
    digits = load_images("digits:train")
    few = ImageSet(digits.images[:150], digits.labels[:150], "few", digits.classes)
    bundle = run(TINY, few)
    assert set(bundle.networks) == {"classifier", "selector"}
    assert bundle.build("selector")(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert run(TINY, few).digest == bundle.digest
    assert run(replace(TINY, rounds=0), few).networks["classifier"].weights != (
        bundle.networks["classifier"].weights
    )
