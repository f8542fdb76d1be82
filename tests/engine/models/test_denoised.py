"""Denoised smoothing with denoisers whose answer is known: posterior means of known priors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.images import as_unit_float
from dualsmooth.engine.methods.cascade import CascadeSmoothing
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models import registry
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.denoised import (
    Denoised,
    Diffusion,
    denoised_bundle,
    noise_schedule,
    timestep,
)
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.samplers.fusion.fold import folded_network

LINEAR = noise_schedule("linear")


class GaussianPrior(nn.Module):
    """Exact E[x_0 | x_t], or E[e | x_t], for pixels of [-1, 1] units with law N(mean, spread^2)."""

    def __init__(self, mean: float = 0.2, spread: float = 0.5, predicts: str = "noise") -> None:
        super().__init__()
        self.mean, self.spread, self.predicts = mean, spread, predicts
        self.levels = nn.Buffer(torch.from_numpy(LINEAR).float())

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        level = self.levels[t][:, None, None, None]
        signal, noise = level.sqrt(), (1.0 - level).sqrt()
        gain = signal * self.spread**2 / (level * self.spread**2 + noise**2)
        image = self.mean + gain * (x - signal * self.mean)
        return image if self.predicts == "image" else (x - signal * image) / noise


class Pixels(nn.Module):
    """The pixels themselves as logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def posterior_mean(y: torch.Tensor, s: float) -> torch.Tensor:
    """Of pixels in [0, 1] units with noise s, by the textbook formula, clipped to [0, 1]."""
    mean, variance = (0.2 + 1.0) / 2.0, (0.5 / 2.0) ** 2
    return ((variance * y + s**2 * mean) / (variance + s**2)).clamp(0.0, 1.0)


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("predicts", ["noise", "image"])
def test_the_posterior_mean_comes_out(sigma: float, predicts: str) -> None:
    """The noise of the step is at most one step above sigma."""
    level = LINEAR[timestep(sigma, LINEAR)]
    s = float(np.sqrt((1.0 - level) / level)) / 2.0
    assert sigma <= s < 1.03 * sigma
    network = Denoised(GaussianPrior(predicts=predicts), Pixels(), sigma, LINEAR, predicts)
    y = torch.rand(50, 3, 4, 5) + sigma * torch.randn(50, 3, 4, 5)
    got, want = network(y), posterior_mean(y, s).flatten(1)
    torch.testing.assert_close(got, want, rtol=0.0, atol=2e-4)
    assert bool(((got >= 0.0) & (got <= 1.0)).all())


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_forgotten_factor_two_fails_that_test(factor: float) -> None:
    network = Denoised(GaussianPrior(), Pixels(), factor * 0.25, LINEAR)
    y = torch.rand(50, 3, 4, 5) + 0.25 * torch.randn(50, 3, 4, 5)
    assert (network(y) - posterior_mean(y, 0.25).flatten(1)).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_step_is_the_first_with_enough_noise(kind: str) -> None:
    levels = noise_schedule(kind)
    assert (np.diff(levels) < 0).all()
    noise = np.sqrt((1.0 - levels) / levels)
    for sigma in (0.06, 0.25, 0.5, 1.0):
        t = timestep(sigma, levels)
        assert noise[t] >= 2.0 * sigma > noise[t - 1]
    assert timestep(1e-6, levels) == 0


def test_published_schedules() -> None:
    """Ho et al.: beta_1 = 1e-4, beta_T = 0.02; Nichol and Dhariwal: abar_t follows cos^2."""
    beta = 1.0 - LINEAR[1:] / LINEAR[:-1]
    assert LINEAR[0] == pytest.approx(1.0 - 1e-4)
    assert beta[-1] == pytest.approx(0.02)
    start = np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    cosine = np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2 / start
    assert noise_schedule("cosine")[499] == pytest.approx(cosine)


def test_variance_channels_are_not_read() -> None:
    class WithVariance(GaussianPrior):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.cat([super().forward(x, t), torch.full_like(x, torch.nan)], 1)

    y = torch.rand(4, 3, 4, 5)
    plain = Denoised(GaussianPrior(), Pixels(), 0.25, LINEAR)(y)
    assert torch.equal(Denoised(WithVariance(), Pixels(), 0.25, LINEAR)(y), plain)


class PriorOfImages(nn.Module):
    """Exact E[x_0 | x_t] for images drawn evenly from a list, pixels in [-1, 1]."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.zeros(shape))
        self.levels = nn.Buffer(torch.from_numpy(LINEAR).float(), persistent=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        level = self.levels[t][:, None]
        images, noisy = self.images.flatten(1), x.flatten(1)
        scores = level.sqrt() * (noisy @ images.T) - level * (images * images).sum(1) / 2.0
        weights = torch.softmax(scores / (1.0 - level), 1)
        return (weights @ images).view(x.shape)


@pytest.fixture
def digits_denoiser(monkeypatch: pytest.MonkeyPatch) -> Network:
    """The posterior mean over the training digits, under a registered name."""
    registry.known_architectures()
    monkeypatch.setattr(registry, "_CONSTRUCTORS", dict(registry._CONSTRUCTORS))

    @registry.register_architecture("prior_of_digits")
    def prior_of_digits() -> nn.Module:
        return PriorOfImages((1257, 8, 8))

    data = as_unit_float(load_images("digits:train").images)[..., 0]
    module = prior_of_digits()
    module.load_state_dict({"images": torch.from_numpy(2.0 * data - 1.0)})
    return network_from_module(module.eval(), "prior_of_digits", {})


def certified(method: Any, n: int = 300) -> tuple[float, float]:
    """Certified accuracy at 0 and average certified radius of 27 test digits."""
    data = load_images("digits")
    chosen = list(range(0, 540, 20))
    found = certify(
        method, data.images[chosen], labels=data.labels[chosen].tolist(),
        budget=Budget.fixed(n0=50, n=n), precision="fp32", device="cpu", batch_size=256,
    )  # fmt: skip
    return float(np.mean([c.correct for c in found])), float(
        np.mean([c.radius * c.correct for c in found])
    )


def test_denoising_certifies_more_than_the_bare_classifier(digits_denoiser: Network) -> None:
    """A classifier made for noise 0.12, at 0.5 and at all levels; the selector is left as it is."""
    bare = load_bundle("digits-dual")
    expert = bare.networks["classifier@0.12"]
    roles = {"selector": bare.networks["selector"], "classifier": expert}
    bundle = Bundle.from_modules(
        roles, num_classes=10, input_shape=(8, 8, 1), sigmas=bare.sigmas, tau=bare.tau
    )
    joined = denoised_bundle(bundle, Diffusion(digits_denoiser, predicts="image"))
    plain, helped = (certified(FixedSmoothing(b, 0.5)) for b in (bundle, joined))
    print(f"fixed 0.5: bare {plain}, denoised {helped}")
    assert helped[0] >= plain[0]
    assert helped[1] > plain[1] + 0.15
    for method in (DualSmoothing, CascadeSmoothing):
        plain, helped = (certified(method(b)) for b in (bundle, joined))
        print(f"{method.__name__}: bare {plain}, denoised {helped}")
        assert helped[1] > plain[1] + 0.02


def test_experts_are_saved_with_their_levels(digits_denoiser: Network, tmp_path: Path) -> None:
    bundle = load_bundle("digits-dual")
    joined = denoised_bundle(bundle, Diffusion(digits_denoiser, predicts="image"), selector=True)
    save_bundle(joined, tmp_path / "b")
    loaded = load_bundle(tmp_path / "b")
    assert loaded.digest == joined.digest != bundle.digest
    steps = {}
    for role in joined.networks:
        module, first = loaded.build(role), joined.build(role)
        x = torch.rand(5, 1, 8, 8)
        with torch.no_grad():
            assert torch.equal(module(x), first(x))
        assert isinstance(module, Denoised)
        steps[role] = module.step
    assert steps == {
        "selector": timestep(0.5, LINEAR),
        **{f"classifier@{s:g}": timestep(s, LINEAR) for s in (0.12, 0.25, 0.5)},
    }


def test_norms_of_the_classifier_are_folded() -> None:
    torch.manual_seed(0)
    kwargs = {"in_channels": 3, "image_size": [4, 5], "widths": [4], "hidden": 8}
    classifier = registry.create("small_convnet", kwargs)
    network = Denoised(GaussianPrior(), classifier, 0.25, LINEAR).eval()
    folded = folded_network(network, torch.float32, (6, 4, 5, 3))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    x = torch.rand(6, 3, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x))


def test_any_module_can_denoise_and_its_numbers_are_in_the_digest() -> None:
    plain = Bundle.from_classifier(Pixels().eval(), num_classes=16, input_shape=(4, 4, 1))
    bundle, digests = plain.read_from({"bundle": "plain"}), set()
    for predicts, steps in (("noise", 1000), ("image", 1000), ("noise", 900)):
        denoiser = network_from_module(GaussianPrior(predicts="noise").eval())
        diffusion = Diffusion(denoiser, steps=steps, predicts=predicts)
        joined = denoised_bundle(bundle, diffusion, sigmas=(0.25, 0.5))
        assert joined.classifier_at(0.5) == "classifier@0.5"
        assert joined.source is None  # an audit would open the plain bundle there
        digests |= {network.sha256 for network in joined.networks.values()}
    assert len(digests) == 6


@pytest.mark.parametrize(
    "given", [lambda x: x[:, :, :1, :1], lambda x: x[0], lambda x: x[:1], lambda x: {"sample": x}]
)
def test_a_denoiser_gives_images(given: Any) -> None:
    class Wrong(torch.nn.Module):
        def forward(self, x: torch.Tensor, steps: torch.Tensor) -> Any:
            return given(x)

    network = Denoised(Wrong(), Pixels(), 0.25, LINEAR).eval()
    bundle = Bundle.from_classifier(network, num_classes=16, input_shape=(4, 4, 1))
    with pytest.raises(FileError, match="denoiser must give a tensor as"):
        bundle.build("classifier")


def test_bad_arguments_are_named(tiny_bundle: Path) -> None:
    plain, dual = GaussianPrior(), load_bundle(tiny_bundle)
    alone = Bundle.from_classifier(Pixels().eval(), num_classes=16, input_shape=(4, 4, 1))
    diffusion = Diffusion(network_from_module(plain.eval()))
    calls: list[tuple[Any, str]] = [
        (lambda: Denoised(plain, Pixels(), 200.0, LINEAR), r"sigma must be at most 78\.\d"),
        (lambda: Denoised(plain, Pixels(), 0.0, LINEAR), "sigma must be a finite number > 0"),
        (lambda: Denoised(plain, Pixels(), float("nan"), LINEAR), "sigma must be a finite"),
        (lambda: Denoised(plain, Pixels(), 0.5, LINEAR, "score"), "predicts must be one of"),
        (lambda: noise_schedule("cubic"), "schedule must be one of linear, cosine"),
        (lambda: noise_schedule("linear", 10), r"steps must be a whole number in \[50, 100000\]"),
        (lambda: denoised_bundle(alone, diffusion), "sigmas must hold at least one"),
        (lambda: denoised_bundle(alone, diffusion, sigmas=(0.5,), selector=True), "selector must"),
        (lambda: denoised_bundle(dual, diffusion, sigmas=(0.5,)), "sigmas must be the selector's"),
        (
            lambda: registry.create("denoised", {"denoiser": 1, "classifier": 2, "sigma": 0.5}),
            "denoiser must hold architecture and kwargs",
        ),
    ]
    for call, message in calls:
        with pytest.raises(ArgumentError, match=f"^{message}"):
            call()
