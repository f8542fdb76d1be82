"""Denoised smoothing: a denoiser, then a classifier, as one base classifier.

Salman et al. (NeurIPS 2020, arXiv 2003.01908) and, with one step of a diffusion model, Carlini et
al. (ICLR 2023, arXiv 2206.10550). A diffusion model of images in [-1, 1] knows
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e. A pixel of [0, 1] with noise sigma becomes 2 x - 1 with
noise 2 sigma, so the step is the first t with sqrt(1 - abar_t) / sqrt(abar_t) >= 2 sigma, and the
input is scaled by sqrt(abar_t). The estimate of x_0 is clipped to [-1, 1] and goes back to [0, 1].

The step depends on sigma, so there is one such network per noise level: an expert. It is a
deterministic function of one noisy image; the theorems of methods that use experts need no change,
and those that need the same network at two levels do not apply.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dualsmooth.engine.checks import one_of, positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import SELECTOR, Bundle, expert_role
from dualsmooth.engine.models.logits import kind_of, logits_in
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.registry import create_part, register_architecture
from dualsmooth.engine.models.rows import ON_TRIAL

PREDICTIONS = ("noise", "image")
"""What a denoiser gives: the noise e, or the image x_0 in [-1, 1]."""

SCHEDULES = ("linear", "cosine")


def noise_schedule(kind: str, steps: int = 1000) -> NDArray[np.float64]:
    """abar_t of t = 0 .. steps - 1, decreasing; at least 50 steps.

    ``linear`` (Ho et al. 2020: beta from 1e-4 to 0.02, for 1000 steps) or ``cosine`` (Nichol and
    Dhariwal 2021, offset 0.008, beta at most 0.999).
    """
    one_of("schedule", kind, SCHEDULES)
    if type(steps) is not int or not 50 <= steps <= 100_000:
        raise ArgumentError("steps", "must be a whole number in [50, 100000]", steps)
    if kind == "linear":
        beta = np.linspace(0.1 / steps, 20.0 / steps, steps)
    else:
        level = [cos((t / steps + 0.008) / 1.008 * pi / 2) ** 2 for t in range(steps + 1)]
        beta = np.minimum(1.0 - np.array(level[1:]) / np.array(level[:-1]), 0.999)
    return np.cumprod(1.0 - beta, dtype=np.float64)


def timestep(sigma: float, schedule: NDArray[np.float64]) -> int:
    """First t with sqrt(1 - abar_t) / sqrt(abar_t) >= 2 sigma; sigma in [0, 1] pixel units."""
    positive("sigma", sigma)
    enough = np.flatnonzero(np.sqrt((1.0 - schedule) / schedule) >= 2.0 * sigma)
    if not len(enough):
        most = float(np.sqrt((1.0 - schedule[-1]) / schedule[-1])) / 2.0
        raise ArgumentError("sigma", f"must be at most {most:.3g} for this schedule", sigma)
    return int(enough[0])


class Denoised(nn.Module):
    """One-shot denoising, then classification of images in [0, 1], for one noise level.

    The denoiser takes x_t (rows, channels, height, width) and steps, int64 (rows,), and gives noise
    or images of that shape. Further channels, as of models that also predict a variance, are not
    read.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        classifier: nn.Module,
        sigma: float,
        schedule: NDArray[np.float64],
        predicts: str = "noise",
    ) -> None:
        super().__init__()
        self.predicts = one_of("predicts", predicts, PREDICTIONS)
        self.step = timestep(sigma, schedule)
        self.signal = float(np.sqrt(schedule[self.step]))
        self.noise = float(np.sqrt(1.0 - schedule[self.step]))
        self.denoiser, self.classifier = denoiser, classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        received = self.classifier(self.denoise(x))
        logits: torch.Tensor | None = logits_in(received)
        return received if logits is None else logits

    def extra_repr(self) -> str:
        """The numbers that decide votes; digests of unregistered modules cover this text."""
        return f"step={self.step}, signal={self.signal!r}, predicts={self.predicts}"

    def denoise(self, x: torch.Tensor) -> torch.Tensor:
        """Noisy images in [0, 1] units to images in [0, 1]."""
        scaled = (2.0 * x - 1.0) * self.signal
        steps = x.new_full((x.shape[0],), self.step, dtype=torch.int64)
        given = self.denoiser(scaled.clone(), steps)
        if ON_TRIAL.get():
            _check_images(given, x)
        image: torch.Tensor = given[:, : x.shape[1]]
        if self.predicts == "noise":
            image = (scaled - self.noise * image) / self.signal
        return (image.clamp(-1.0, 1.0) + 1.0) / 2.0


def _check_images(given: Any, x: torch.Tensor) -> None:
    """Refuse what is no batch like x, and could be spread over its pixels or rows all the same."""
    is_tensor = isinstance(given, torch.Tensor)
    if not (is_tensor and given.ndim == 4 and given[:, : x.shape[1]].shape == x.shape):
        received = tuple(given.shape) if is_tensor else kind_of(given)
        raise ArgumentError("denoiser", f"must give a tensor as {tuple(x.shape)}", received)


@register_architecture("denoised")
def denoised(
    *,
    denoiser: Mapping[str, object],
    classifier: Mapping[str, object],
    sigma: float,
    schedule: str = "linear",
    steps: int = 1000,
    predicts: str = "noise",
) -> Denoised:
    """Denoiser and classifier of registered architectures: ``{"architecture": NAME, "kwargs":
    {...}}``.
    """
    parts = create_part("denoiser", denoiser), create_part("classifier", classifier)
    return Denoised(*parts, sigma, noise_schedule(schedule, steps), predicts)


@dataclass(frozen=True, slots=True)
class Diffusion:
    """A denoiser, as `Denoised` takes it, with the schedule it was trained with."""

    denoiser: Network
    schedule: str = "linear"
    steps: int = 1000
    predicts: str = "noise"

    def before(self, classifier: Network, sigma: float) -> Network:
        """The denoiser, then a classifier, for one noise level."""
        levels = noise_schedule(self.schedule, self.steps)
        parts = {"denoiser": self.denoiser, "classifier": classifier}
        modules = [part.build() for part in parts.values()]
        module = Denoised(modules[0], modules[1], sigma, levels, self.predicts).eval()
        if not all(isinstance(part.weights, bytes) for part in parts.values()):
            return network_from_module(module)
        kwargs: dict[str, object] = {
            name: {"architecture": part.architecture, "kwargs": dict(part.kwargs)}
            for name, part in parts.items()
        }
        kwargs |= {"sigma": sigma, "schedule": self.schedule, "steps": self.steps}
        return network_from_module(module, "denoised", kwargs | {"predicts": self.predicts})


def denoised_bundle(
    bundle: Bundle, diffusion: Diffusion, *, sigmas: tuple[float, ...] = (), selector: bool = False
) -> Bundle:
    """A bundle with a denoised expert for every noise level: for fixed, dual and cascade methods.

    The levels are those of the bundle, and always so beside a selector, which may see denoised
    images at tau, too. It can be saved if denoiser and classifiers could; every expert holds the
    denoiser.
    """
    levels = sigmas or bundle.sigmas
    if not levels:
        raise ArgumentError("sigmas", "must hold at least one noise level", levels)
    if bundle.tau is not None and levels != bundle.sigmas:
        raise ArgumentError("sigmas", f"must be the selector's levels {bundle.sigmas}", levels)
    if bundle.joint:
        rule = "must not have joint votes: its selector classifies images without a denoiser"
        raise ArgumentError("bundle", rule, bundle.name)
    if bundle.tau is None and selector:
        raise ArgumentError("selector", "must be False for a bundle without one", selector)
    networks = {
        expert_role(s): diffusion.before(bundle.networks[bundle.classifier_at(s)], s)
        for s in levels
    }
    if bundle.tau is not None:
        chosen = bundle.networks[SELECTOR]
        networks[SELECTOR] = diffusion.before(chosen, bundle.tau) if selector else chosen
    return replace(bundle, name=f"{bundle.name}-denoised", sigmas=levels, networks=networks)
