import pytest
import torch

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.ensemble import ensemble_network
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.registry import create

KWARGS = {"in_channels": 1, "num_classes": 3, "image_size": [5, 7], "widths": [4], "hidden": 8}


def member(seed: int, **changed: object) -> Network:
    torch.manual_seed(seed)
    kwargs = {**KWARGS, **changed}
    return network_from_module(create("small_convnet", kwargs).eval(), "small_convnet", kwargs)


def test_logits_are_the_mean_of_the_members() -> None:
    members = [member(seed) for seed in range(3)]
    x = torch.rand(4, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = sum(m.build()(x) for m in members) / 3
    assert torch.allclose(ensemble_network(members).build()(x), expected, atol=1e-6)


def test_refused() -> None:
    with pytest.raises(ArgumentError, match="must be networks of one architecture"):
        ensemble_network([member(0), member(1, hidden=9)])
    with pytest.raises(ArgumentError, match="must be networks of one architecture"):
        ensemble_network([])
    kwargs = {"architecture": "small_convnet", "kwargs": KWARGS, "members": 0}
    with pytest.raises(ArgumentError, match="members must be"):
        create("ensemble", kwargs)
    with pytest.raises(ArgumentError, match="must not be an ensemble"):
        create("ensemble", {**kwargs, "architecture": "ensemble"})
