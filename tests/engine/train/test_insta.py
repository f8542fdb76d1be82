from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualsmooth.engine.train import insta
from dualsmooth.engine.train.insta import INSTA, widest_levels
from dualsmooth.engine.train.radii import Labelling, radii_of
from dualsmooth.engine.train.run import run
from tests.engine.train.test_dual import few_digits

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


@pytest.mark.parametrize("runner_up", [False, True])
def test_the_selector_learns_from_the_radii_it_will_be_certified_with(
    runner_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`labelling.runner_up` chooses the certificate; all radii of round 0 must follow it."""
    asked = []

    def radii(*rest: Any) -> Tensor:
        asked.append(rest[4].runner_up)
        return radii_of(*rest)

    monkeypatch.setattr(insta, "radii_of", radii)
    run(replace(TINY, labelling=Labelling(votes=8, runner_up=runner_up)), few_digits(150))
    assert asked == [runner_up] * len(TINY.sigmas)


def test_a_short_run() -> None:
    few = few_digits(150)
    bundle = run(TINY, few)
    assert set(bundle.networks) == {"classifier", "selector"}
    assert bundle.build("selector")(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert run(TINY, few).digest == bundle.digest
    assert run(replace(TINY, rounds=0), few).networks["classifier"].weights != (
        bundle.networks["classifier"].weights
    )
