"""Ensembles of classifiers (Horvath et al., ICLR 2022, arXiv 2106.06946) as one base classifier.

Soft voting takes the mean of the members' logits. K-consensus asks the first K members: where they
agree their class is the answer, elsewhere the mean of all logits decides. Both are deterministic
functions of one noisy image, so certificates and predictions are about them as about any network,
and the theorems need no change. K-consensus is another classifier than soft voting: a certificate
of one says nothing about the other.

The rows that need all members are gathered into sub-batches of one fixed padded shape, so a vote
depends neither on its batch mates nor on how many of them were unsure.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.logits import LOGITS, kind_of, logits_in
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.registry import create_part, register_architecture
from dualsmooth.engine.models.rows import ON_TRIAL

ROWS = 32
"""Rows of a sub-batch unless something else is asked for."""


class SoftVoting(nn.Module):
    """Mean of the members' logits, added one after the other."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ArgumentError("members", "must hold at least one network", [])
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return mean_of(answers(self.members, x))


class Members(nn.Module):
    """Logits of every member, shape (members, rows, classes)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(answers(self.members, x))


class Consensus(nn.Module):
    """K-consensus: the class the first K (`agree`) members agree on, else the mean of all logits.

    An agreed class has logit 1 and the others 0. A row with a logit that is not finite agrees on
    nothing. On CUDA devices, where a captured pass cannot depend on its data, every member sees
    every row: the same function without the saving. `rows` is the padded shape of the sub-batches
    that the other members see: part of what is certified, as the batch shape is.
    """

    def __init__(self, members: Sequence[nn.Module], agree: int = 2, rows: int = ROWS) -> None:
        super().__init__()
        if type(agree) is not int or not 2 <= agree < len(members):
            raise ArgumentError("agree", f"must be a whole number, 2 .. {len(members) - 1}", agree)
        self.rows = positive_integer("rows", rows)
        self.first, self.rest = Members(members[:agree]), Members(members[agree:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early: torch.Tensor = self.first(x)
        if ON_TRIAL.get():
            return mean_of([*early, *self.rest(x)])
        votes = early.argmax(2)
        agreed = (votes == votes[0]).all(0) & early.isfinite().all(2).all(0)
        classes = torch.arange(early.shape[2], device=x.device)
        logits = (votes[0][:, None] == classes).to(early.dtype)
        if x.is_cuda:
            full = mean_of([*early, *self.rest(x)])
            return torch.where(agreed[:, None], logits, full)
        unsure = torch.nonzero(~agreed)[:, 0]
        for part in torch.split(unsure, self.rows):
            logits[part] = mean_of([*early[:, part], *self._late(x, part)])
        return logits

    def extra_repr(self) -> str:
        """A number that decides votes; digests of unregistered modules cover this text."""
        return f"rows={self.rows}"

    def _late(self, x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """Logits of the other members for some rows, in a padded channels-last sub-batch."""
        _, channels, height, width = x.shape
        batch = x.new_zeros(self.rows, height, width, channels).permute(0, 3, 1, 2)
        batch[: len(part)] = x[part]
        late: torch.Tensor = self.rest(batch)
        return late[:, : len(part)]


def answers(members: Iterable[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """Logits of every member, for as many rows as the batch has: that is checked in trials."""
    received = [member(x.clone()) for member in members]  # may change its input
    found = [logits_in(given) for given in received]
    if not ON_TRIAL.get():  # torch.fx traces known members, whose tensors cannot be told
        return [given if y is None else y for given, y in zip(received, found, strict=True)]
    for given, logits in zip(received, found, strict=True):
        if logits is None or logits.ndim != 2 or len(logits) != len(x):
            said = kind_of(given) if logits is None else f"{tuple(logits.shape)} for {len(x)} rows"
            raise ArgumentError("members", f"each {LOGITS}", said)
    return found


def mean_of(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean by additions in order: unlike a reduction the same for a row wherever it stands."""
    total = logits[0]
    for other in logits[1:]:
        if ON_TRIAL.get() and other.shape[1] != total.shape[1]:  # one would be added to all
            received = f"{other.shape[1]} and {total.shape[1]}"
            raise ArgumentError("members", "must have equally many logits", received)
        total = total + other
    return total / len(logits)


def by_stages(
    network: nn.Module, rewrite: Callable[[nn.Module, int | None], nn.Module]
) -> nn.Module:
    """Rewrite a network, or each of the two stages of a `Consensus`, which is no single graph.

    The rewriting function takes a network and the rows of its batches, None for those of the whole.
    """
    if type(network) is not Consensus:
        return rewrite(network, None)
    made = copy.copy(network)
    made._modules = dict(network._modules)
    made.first = rewrite(network.first, None)  # type: ignore[assignment]
    made.rest = rewrite(network.rest, network.rows)  # type: ignore[assignment]
    return made


@register_architecture("soft_voting")
def soft_voting(*, members: Sequence[Mapping[str, object]]) -> SoftVoting:
    """Soft-voting ensemble of registered architectures: ``{"architecture": NAME, "kwargs":
    {...}}``.
    """
    return SoftVoting([create_part("members", member) for member in members])


@register_architecture("consensus")
def consensus(
    *, members: Sequence[Mapping[str, object]], agree: int = 2, rows: int = ROWS
) -> Consensus:
    """K-consensus ensemble; see `Consensus` and `soft_voting` for the parameters and errors."""
    return Consensus([create_part("members", member) for member in members], agree, rows)


def ensemble_of(
    bundles: Sequence[Bundle], *, agree: int | None = None, rows: int = ROWS, name: str = "ensemble"
) -> Bundle:
    """A bundle whose every network is the ensemble of the bundles' networks of that role.

    K-consensus of `agree`, or soft voting. It can be saved if every member could. Ensembles of
    modules are ``SoftVoting(modules)`` and ``Consensus(modules, agree)``.
    """
    if not bundles:
        raise ArgumentError("bundles", "must hold at least one bundle", [])
    first = bundles[0]
    for field in ("input_shape", "num_classes", "sigmas", "tau", "preparation"):
        if any(getattr(bundle, field) != getattr(first, field) for bundle in bundles):
            values = [getattr(bundle, field) for bundle in bundles]
            raise ArgumentError("bundles", f"must have the same {field}", values)
    if any(bundle.networks.keys() != first.networks.keys() for bundle in bundles):
        roles = [sorted(bundle.networks) for bundle in bundles]
        raise ArgumentError("bundles", "must have the same roles", roles)
    named = {bundle.classes for bundle in bundles if bundle.classes} or {()}
    if len(named) > 1:
        heads = [", ".join(names[:3]) for names in sorted(named)]
        raise ArgumentError("bundles", "must have the same classes in the same order", heads)
    networks = {
        role: joined([bundle.networks[role] for bundle in bundles], agree, rows)
        for role in first.networks
    }
    shape, classes = first.input_shape, first.num_classes
    levels, made = (first.sigmas, first.tau), first.preparation
    return Bundle(name, shape, classes, *levels, networks, made, classes=named.pop())


def joined(networks: Sequence[Network], agree: int | None = None, rows: int = ROWS) -> Network:
    """The ensemble of networks as one network; parameters as for `ensemble_of`."""
    modules = [network.build() for network in networks]
    kwargs: dict[str, object] = {
        "members": [{"architecture": n.architecture, "kwargs": dict(n.kwargs)} for n in networks]
    }
    architecture = "soft_voting" if agree is None else "consensus"
    module: nn.Module = SoftVoting(modules) if agree is None else Consensus(modules, agree, rows)
    if agree is not None:
        kwargs |= {"agree": agree, "rows": rows}
    if not all(isinstance(network.weights, bytes) for network in networks):
        architecture, kwargs = "", {}
    return network_from_module(module.eval(), architecture, kwargs)
