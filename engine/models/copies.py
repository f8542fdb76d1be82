"""Copies of modules that users hold, which are what is tried and what votes."""

import copy
from collections.abc import Mapping
from contextlib import suppress
from threading import get_ident
from typing import Any

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.capture import is_known
from dualsmooth.engine.models.digest.module_state import unwrapped
from dualsmooth.engine.models.logits import logits_in
from dualsmooth.engine.models.network import Network, in_training, network_from_module
from dualsmooth.engine.models.rows import BOUNDS, close, noisy
from dualsmooth.engine.terminal.progress import step


class OfThreads(nn.Module):
    """A network of which each thread runs a copy: it may keep something for a pass's length.

    The copies share parameters, and are made again when these move or change their dtype.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self._copies = network, dict[int, nn.Module]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        thread = get_ident()
        if thread not in self._copies:
            self._copies[thread] = again(self.network, sharing=True)
        logits: torch.Tensor = self._copies[thread](x)
        return logits

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        self._copies.clear()
        return super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]


@step("copying the network")
def networks_of(
    given: Mapping[str, nn.Module | Network], shape: tuple[int, int, int]
) -> dict[str, Network]:
    """Networks by role: copies of modules, which is what trials and votes see, as they are now.

    Rows pass before the digest of unknown code, so that what it keeps of its first call is in
    place. A module whose copy gives other logits is refused.
    """
    for module in given.values():
        if not isinstance(module, nn.Module | Network):
            kind = module if isinstance(module, type) else type(module)
            hint = "an instance of it" if module is kind else "files: load_bundle(FILE)"
            raise ArgumentError("module", "must be a module of PyTorch", kind.__name__, hint)
    bare = {k: unwrapped(m) if isinstance(m, nn.Module) else m for k, m in given.items()}
    modules = {k: m for k, m in bare.items() if isinstance(m, nn.Module) and not in_training(m)}
    tried = {role: m for role, m in modules.items() if not is_known(m, read=True)}
    answers = dict[str, torch.Tensor]()
    for role, module in tried.items():
        with suppress(Exception), torch.no_grad():  # what cannot run is what trials tell
            answers[role] = logits_in(module(_beside(module, shape))).clone()
    networks = {k: m if isinstance(m, Network) else network_from_module(m) for k, m in bare.items()}
    for role, module in tried.items():
        if role in answers and _differs(module, networks[role].weights, shape, answers[role]):
            rule = "must be a network of its own, as a copy of it is"
            hint = "its copy gives other logits: keep what it reads in its attributes"
            raise ArgumentError("module", rule, type(module).__name__, hint)
    return networks


def again(module: nn.Module, *, sharing: bool = False) -> nn.Module:
    """A copy in evaluation mode, which graphs of torchvision forget; it may share parameters."""
    shared = module.parameters() if sharing else ()
    copied = copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
    if in_training(copied):
        copied.eval()
    return copied


def _differs(
    module: nn.Module, copied: Any, shape: tuple[int, int, int], own: torch.Tensor
) -> bool:
    """Whether a copy gives other logits; where either cannot run, or varies, its trials tell."""
    try:
        batch = _beside(module, shape)
        copied = again(copied)  # a pass may change it
        with torch.no_grad():
            agree, other = close(BOUNDS[torch.float32], own), logits_in(copied(batch.clone()))
            if agree(other, own):
                return False
            pair = [logits_in(n(batch.clone())) for n in (module, copied)]
            return agree(pair[0], own) and agree(pair[1], other)
    except Exception:  # whatever the network and its libraries raise
        return False


def _beside(module: nn.Module, shape: tuple[int, int, int]) -> torch.Tensor:
    """Two rows on the device of a module's weights."""
    batch = noisy(2, shape).contiguous()
    return batch.to(next((p.device for p in module.parameters()), batch.device))
