"""Networks: one of a bundle, with its weights and how to build it; and how methods name them."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.records import sha256_of

if TYPE_CHECKING:
    from torch import nn

_COUNTER = "num_batches_tracked"
"""Training statistic of batch norm that no vote depends on."""

ONE_LOGIT = "one logit z of a binary network: torch.cat([-z, z], 1)"
"""A class that has no rival wins everywhere."""

UNDIGESTED = "undigested"
"""Entry of kwargs that names what the digest of a module in memory cannot cover."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Network:
    """A network with its weights: a safetensors file, or a module that is not in the registry.

    The digest is of the file; of class, structure and tensors for a module. The origin is where the
    weights came from, for messages.
    """

    architecture: str
    kwargs: Mapping[str, object]
    sha256: str
    weights: "bytes | nn.Module" = field(repr=False)
    origin: str = "memory"

    @property
    def joint(self) -> bool:
        """Whether it is a selector that votes for pairs of a level and a class, level by level."""
        return self.architecture == "ordered_score" and bool(self.kwargs.get("joint"))

    @property
    def int8(self) -> bool:
        """Whether it, or a network that it is made of, is one of 8-bit integers."""
        parts = json.dumps(dict(self.kwargs), default=str)
        return self.architecture == "int8" or '"architecture": "int8"' in parts

    def build(self) -> "nn.Module":
        """A fresh copy: eval mode, float32, on the CPU, NCHW input in [0, 1]."""
        # torch takes seconds to import, and a bundle can be read without it.
        from dualsmooth.engine.models.weights import build_network, check_defaults

        check_defaults()
        if not isinstance(self.weights, bytes):
            from dualsmooth.engine.models.digest.live_module import build_copy

            digest = self.kwargs.get("structure", self.sha256)
            return build_copy(self.weights, self.architecture, digest)
        try:
            return build_network(self.architecture, self.kwargs, self.tensors(), self.origin)
        except ArgumentError as error:
            raise FileError(self.origin, str(error)) from error

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """The tensors of the weights file by name."""
        from safetensors.numpy import load

        assert isinstance(self.weights, bytes)
        try:
            return dict(load(self.weights))
        except Exception as error:  # the parser's errors have no common base
            received = reason_of(error)
            raise FileError(self.origin, "must be a safetensors file", received) from error


def network_from_module(
    module: "nn.Module",
    architecture: str = "",
    kwargs: Mapping[str, object] | None = None,
    *,
    half: bool = False,
) -> Network:
    """Describe a module in memory.

    With an architecture name (and its kwargs) the result can be saved; without one the digest
    covers the class, the printed structure and every parameter and buffer. With `half` the network
    is the one whose weights are rounded to float16, in half the bytes.
    """
    if in_training(module):
        raise ArgumentError("module", "must be in eval mode", type(module).__name__, "call eval()")
    from dualsmooth.engine.models.digest.live_module import check_equal, digested_copy

    if not architecture:
        name, digest, opaque, copied = digested_copy(module)
        if not opaque:
            return Network(name, {}, digest, copied)
        kwargs = {UNDIGESTED: opaque, "structure": digest}
        return Network(name, kwargs, sha256_of(secrets.token_bytes(32)), copied)  # like no other
    from safetensors.numpy import save

    state = {k: t for k, t in module.state_dict().items() if not k.endswith(_COUNTER)}
    dtype = np.float16 if half else None
    weights = save(
        {k: np.ascontiguousarray(t.detach().cpu().numpy(), dtype) for k, t in state.items()}
    )
    network = Network(architecture, dict(kwargs or {}), sha256_of(weights), weights)
    try:
        built = network.build()
    except FileError as error:
        rule = f"must be what {architecture} builds from these kwargs"
        raise ArgumentError("module", rule, type(module).__name__, str(error)) from error
    check_equal(module, built, architecture)
    return network


def in_training(module: "nn.Module") -> bool:
    """Whether a part is in training mode; exported programs and frozen scripts have no modes."""
    modes = [getattr(part, "training", False) for part in module.modules()]
    return any(modes) and "eval" not in vars(module)


def check_digested(networks: Mapping[str, Network], argument: str) -> None:
    """Refuse what must know networks again by their digests; names the argument."""
    for role, network in networks.items():
        if not isinstance(network.weights, bytes) and UNDIGESTED in network.kwargs:
            raise ArgumentError(
                argument,
                f"needs networks that a digest covers, and {role} is none",
                str(network.kwargs[UNDIGESTED]),
                "keep plain values, tensors and modules there",
            )


Named = TypeVar("Named")


class Networks(Protocol):
    """Names of the networks and the noise levels they belong to."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the selector's classes, ascending."""

    @property
    def tau(self) -> float | None:
        """The selector's own noise level, None if there is no selector."""

    def classifier_at(self, sigma: float) -> str:
        """Name of the classifier used at sigma; raises `ArgumentError` if there is none."""


def check_networks(networks: Named) -> Named:
    """What was given, or `ArgumentError` if it is no bundle: the name of one, for example."""
    if not hasattr(networks, "classifier_at"):
        rule = "must be a bundle, such as load_bundle('digits-dual')"
        received = repr(networks) if isinstance(networks, str) else type(networks).__name__
        hint = "a module: Bundle.from_classifier" if callable(networks) else ""
        raise ArgumentError("networks", rule, received, hint)
    return networks


class CommonNetworks(Networks, Protocol):
    """Networks for methods that compare noise levels: the same classifier at all of them."""

    def common_classifier(self) -> str:
        """Name of the classifier used at every sigma; raises `ArgumentError` if levels differ."""


class OneNetwork:
    """A single classifier used at every sigma, without a selector."""

    name: ClassVar[str] = "classifier"
    sigmas: ClassVar[tuple[float, ...]] = ()
    tau: ClassVar[float | None] = None

    def classifier_at(self, sigma: float) -> str:
        """The classifier's name, whatever sigma is."""
        return self.name

    def common_classifier(self) -> str:
        """The classifier's name."""
        return self.name
