"""Bundles: everything a certificate needs to know about its networks.

A bundle holds networks by role. `selector` votes for a noise level; `classifier` answers at every
level, or experts `classifier@0.25` answer at one level each. Importing this module, reading a
folder and comparing digests need no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from dualsmooth.engine.checks import ascending, keep_plain
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.network import ONE_LOGIT, Network
from dualsmooth.engine.records import digest_of

if TYPE_CHECKING:
    from torch import nn

SELECTOR, CLASSIFIER = "selector", "classifier"


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """Networks with the noise levels they were made for.

    Parameters
    ----------
    name : str
    input_shape : tuple of int
        Image shape (height, width, channels).
    num_classes : int
    sigmas : tuple of float
        Noise levels, ascending, in [0, 1] pixel units; may be empty if there is no selector.
    tau : float or None
        Noise level of the selector; None without one.
    networks : mapping of str to Network
        By role: `selector`, `classifier`, or experts such as `classifier@0.25`.
    preparation, classes : optional
        How their source resizes and crops images, a record of `engine.data.prepare.Prepare`; names
        of the classes, if the source has some.

    Raises
    ------
    ArgumentError
        If a field breaks its rule or the roles do not fit the levels.
    """

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    sigmas: tuple[float, ...]
    tau: float | None
    networks: Mapping[str, Network]
    preparation: Mapping[str, Any] | None = None
    classes: tuple[str, ...] = ()
    source: Mapping[str, Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        keep_plain(self, "input_shape", "num_classes", "sigmas", "tau")
        shape, classes = self.input_shape, self.num_classes
        if len(shape) != 3 or not all(type(size) is int and size >= 1 for size in shape):
            rule = "must be (height, width, channels), each >= 1"
            raise ArgumentError("input_shape", rule, self.input_shape)
        if type(classes) is not int or classes < 2:
            rule = "must be a whole number >= 2"
            raise ArgumentError("num_classes", rule, self.num_classes, ONE_LOGIT)
        if self.classes and len(self.classes) != self.num_classes:
            rule = f"must name the {self.num_classes} classes, or none"
            raise ArgumentError("classes", rule, f"{len(self.classes)} names")
        object.__setattr__(self, "sigmas", ascending("sigmas", self.sigmas))
        if not self.networks:
            raise ArgumentError("networks", "must hold at least one network", {})
        for role in self.networks:
            self._check_role(role)
        self._check_tau()

    def _check_role(self, role: str) -> None:
        if role == CLASSIFIER or (role == SELECTOR and self.sigmas):
            return
        if role == SELECTOR:
            raise ArgumentError("sigmas", "must not be empty beside a selector", self.sigmas)
        level = _level(role)
        # One spelling per level, so that a level has one expert and a role is a file name.
        if level is None or level not in self.sigmas or role != expert_role(level):
            rule = f"must be selector, classifier or classifier@S with S in {self.sigmas}"
            raise ArgumentError("role", rule, role)

    def _check_tau(self) -> None:
        if SELECTOR not in self.networks:
            if self.tau is not None:
                raise ArgumentError("tau", "must be None without a selector", self.tau)
        elif self.tau is None or not (isfinite(self.tau) and self.tau > 0):
            raise ArgumentError("tau", "must be finite and > 0 beside a selector", self.tau)
        elif self.joint and self.tau not in self.sigmas:
            rule = f"must be one of the levels {self.sigmas} with joint votes"
            raise ArgumentError("tau", rule, self.tau)
        else:
            object.__setattr__(self, "tau", float(self.tau))

    @classmethod
    def from_modules(
        cls,
        modules: "Mapping[str, nn.Module | Network]",
        *,
        num_classes: int,
        input_shape: tuple[int, int, int],
        sigmas: tuple[float, ...] = (),
        tau: float | None = None,
        name: str = "modules",
    ) -> "Bundle":
        """A bundle of networks in memory, by role.

        Each takes images (n, channels, height, width) with pixels in [0, 1] and returns logits.
        `ArgumentError` if a module trains, its copy answers otherwise, or roles fit no levels.
        """
        from dualsmooth.engine.models.copies import networks_of

        return cls(name, input_shape, num_classes, sigmas, tau, networks_of(modules, input_shape))

    @classmethod
    def from_classifier(
        cls, module: "nn.Module", *, num_classes: int, input_shape: tuple[int, int, int]
    ) -> "Bundle":
        """A bundle of one classifier for any noise level."""
        only = {CLASSIFIER: module}
        return cls.from_modules(only, num_classes=num_classes, input_shape=input_shape)

    @classmethod
    def of_manifest(cls, manifest: Any, name: str) -> "Bundle":
        """The bundle a manifest describes, without its weights: enough to check certificates.

        Raises ValueError if it is no manifest as JSON returns it.
        """
        try:
            if set(manifest) != {"input_shape", "num_classes", "sigmas", "tau", "networks"}:
                raise ValueError("must have the fields of a bundle's manifest, and no others")
            networks = {
                str(role): Network(str(architecture), dict(kwargs), str(sha256), b"", "a manifest")
                for role, (architecture, kwargs, sha256) in manifest["networks"].items()
            }
            shape, sigmas = tuple(manifest["input_shape"]), tuple(manifest["sigmas"])
            return cls(name, shape, manifest["num_classes"], sigmas, manifest["tau"], networks)
        except (TypeError, AttributeError, KeyError, OverflowError) as error:
            raise ValueError(f"not a manifest of a bundle: {error}") from error

    def read_from(self, source: Mapping[str, Any] | None) -> "Bundle":
        """Itself, with the arguments of `load_bundle` that lead here; `replace` leaves them out."""
        object.__setattr__(self, "source", source)
        return self

    @property
    def joint(self) -> bool:
        """Whether the selector classifies, too (`dualsmooth.engine.models.joint`)."""
        return SELECTOR in self.networks and self.networks[SELECTOR].joint

    @property
    def preference(self) -> str:
        """Operating point of the selector, as written into certificates; empty if it has none."""
        return str(self.networks[SELECTOR].kwargs.get("prefer", "")) if self.tau else ""

    @property
    def manifest(self) -> dict[str, object]:
        """Everything that determines votes, as JSON; weights by digest."""
        return {
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "sigmas": list(self.sigmas),
            "tau": self.tau,
            "networks": {
                role: [network.architecture, dict(network.kwargs), network.sha256]
                for role, network in self.networks.items()
            },
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest."""
        return digest_of(self.manifest)

    def classifier_at(self, sigma: float) -> str:
        """Role that classifies at a noise level: its expert, else the common classifier.

        Raises
        ------
        ArgumentError
            If there are only experts and none is for this level.
        """
        levels = {_level(role): role for role in self.networks if role != SELECTOR}
        role = levels.get(sigma, levels.get(None))
        if role is None:
            known = ", ".join(str(level) for level in sorted(filter(None, levels)))
            rule = f"must be a level with a classifier in bundle {self.name}"
            raise ArgumentError("sigma", rule, sigma, f"available: {known or 'none'}")
        return role

    def common_classifier(self) -> str:
        """Role of the classifier deployed at every noise level.

        Raises
        ------
        ArgumentError
            If levels have experts: a bound between two levels needs the same classifier at both.
        """
        if (roles := sorted({*self.networks} - {SELECTOR})) != [CLASSIFIER]:
            rule = f"must have one classifier for every noise level in bundle {self.name}"
            raise ArgumentError("networks", rule, ", ".join(roles), "experts: fixed and dual")
        return CLASSIFIER

    def outputs(self, role: str) -> int:
        """Number of logits of a network: classes, levels of a selector, pairs for joint votes."""
        self._network(role)
        classes = self.num_classes if role != SELECTOR or self.joint else 1
        return classes * (len(self.sigmas) if role == SELECTOR else 1)

    def build(self, role: str) -> "nn.Module":
        """A fresh network: eval mode, float32, on the CPU, NCHW input in [0, 1].

        Raises
        ------
        ArgumentError
            If the role is not in the bundle.
        FileError
            If the weights do not fit the architecture, or `front_door.admitted` refuses it.
        """
        from dualsmooth.engine.models.front_door import admitted

        owner, outputs = self._network(role), self.outputs(role)
        return admitted(owner.build(), self.input_shape, outputs, role, str(owner.origin), owner)

    def _network(self, role: str) -> Network:
        if role not in self.networks:
            raise ArgumentError("role", f"must be one of {', '.join(sorted(self.networks))}", role)
        return self.networks[role]


def expert_role(sigma: float) -> str:
    """Role of the classifier made for one noise level, for example `classifier@0.25`."""
    return f"{CLASSIFIER}@{sigma:g}"


def _level(role: str) -> float | None:
    """Level of an expert's role; None if it is not one."""
    name, _, level = role.partition("@")
    try:
        return float(level) if name == CLASSIFIER else None
    except ValueError:
        return None
