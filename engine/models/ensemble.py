"""Soft ensembles: one base classifier whose logits are the mean of its members' logits."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.registry import create, register_architecture


class Ensemble(nn.Module):
    """Mean of the logits of networks with the same outputs (Horvath et al., 2021)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


@register_architecture("ensemble")
def ensemble(*, architecture: str, kwargs: Mapping[str, object], members: int) -> Ensemble:
    """Members of one architecture.

    Parameters
    ----------
    architecture : str
        Registered name, not ``ensemble`` itself.
    kwargs : mapping
        Its keyword arguments.
    members : int

    Raises
    ------
    ArgumentError
        If a value breaks its rule.
    """
    if architecture == "ensemble":
        raise ArgumentError("architecture", "must not be an ensemble", architecture)
    if type(members) is not int or members < 1:
        raise ArgumentError("members", "must be a whole number >= 1", members)
    return Ensemble([create(architecture, kwargs) for _ in range(members)])


def ensemble_network(members: Sequence[Network]) -> Network:
    """The network of an ensemble.

    Raises
    ------
    ArgumentError
        If there is no member, or members differ in architecture.
    """
    kinds = [(member.architecture, dict(member.kwargs)) for member in members]
    if not kinds or any(kind != kinds[0] for kind in kinds):
        raise ArgumentError("members", "must be networks of one architecture", kinds)
    module = Ensemble([member.build() for member in members]).eval()
    architecture, kwargs = kinds[0]
    described = {"architecture": architecture, "kwargs": kwargs, "members": len(members)}
    return network_from_module(module, "ensemble", described)
