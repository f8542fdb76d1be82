import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from dualsmooth.engine.api import Smooth
from dualsmooth.engine.bounds.proportions import clopper_pearson_table
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.radius.gaussian import gaussian_radius


class HalfSpace(torch.nn.Module):
    """Class 1 iff the first coordinate is at least the threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1)[:, 0] - self.threshold
        return torch.stack([-score, score, torch.full_like(score, -9.0)], dim=1)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 2), (6,), (2, 3)])
def test_certified_radius_is_just_below_the_true_one(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    label, radius = Smooth(HalfSpace(-0.5), 3, 0.5).certify(x, 50, 4000, 0.001, batch_size=300)
    assert label == 1
    assert 0.42 < radius < 0.5


def test_radii_follow_the_binomial_law() -> None:
    """Mean radius of 60 calls against its exact expectation; |score| < 5, false alarm 6e-7."""
    n, alpha, sigma = 500, 0.01, 0.5
    smooth = Smooth(HalfSpace(-0.3), 3, sigma, seed=5)
    radii = [smooth.certify(torch.zeros(2), 400, n, alpha, 512)[1] for _ in range(60)]
    k = np.arange(n + 1)
    mass = stats.binom.pmf(k, n, stats.norm.cdf(0.3 / sigma))
    radius = np.array([gaussian_radius(p, sigma) for p in clopper_pearson_table(n, alpha)])
    mean = mass @ radius
    spread = np.sqrt(mass @ (radius - mean) ** 2 / 60)
    assert abs(np.mean(radii) - mean) < 5 * spread


def test_predict_and_abstain() -> None:
    assert Smooth(HalfSpace(-0.5), 3, 0.5).predict(torch.zeros(4), 1000, 0.001, 100) == 1
    assert Smooth(HalfSpace(0.5), 3, 0.5).predict(torch.zeros(4), 1000, 0.001, 100) == 0
    undecided = Smooth(HalfSpace(0.0), 3, 0.5)
    assert undecided.predict(torch.zeros(4), 200, 0.001, 100) == Smooth.ABSTAIN == -1
    assert undecided.certify(torch.zeros(4), 50, 200, 0.001, 100) == (-1, 0.0)


def test_a_callable_and_a_changed_module_are_read_at_each_call() -> None:
    network = HalfSpace(-0.5).train()
    smooth = Smooth(network, 3, 0.5)
    assert smooth.predict(torch.zeros(4), 500, 0.001, 100) == 1
    with torch.no_grad():
        network.threshold.add_(1.0)
    assert smooth.predict(torch.zeros(4), 500, 0.001, 100) == 0
    plain = Smooth(lambda x: torch.stack([x[:, 0], -x[:, 0]], 1), 2, 0.1)
    assert plain.predict(torch.ones(4), 500, 0.001, 100) == 0


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: Smooth(HalfSpace(0), 3, 0.0), "sigma"),
        (lambda: Smooth(HalfSpace(0), 3, math.nan), "sigma"),
        (lambda: Smooth(HalfSpace(0), 1, 0.5), "num_classes"),
        (lambda: Smooth(HalfSpace(0), 3.0, 0.5), "num_classes"),  # type: ignore[arg-type]
        (lambda: Smooth(HalfSpace(0), True, 0.5), "num_classes"),
        (lambda: Smooth(None, 3, 0.5), "base_classifier"),  # type: ignore[arg-type]
        (lambda: Smooth(HalfSpace(0), 3, 0.5, seed=-1), "seed"),
        (lambda: Smooth(HalfSpace(0), 3, 0.5).certify(torch.zeros(2), 0, 9, 0.1, 9), "n0"),
        (lambda: Smooth(HalfSpace(0), 3, 0.5).certify(torch.zeros(2), 9, 9, 1.0, 9), "alpha"),
        (lambda: Smooth(HalfSpace(0), 3, 0.5).certify(torch.zeros(2), 9, 9, 0.1, 0), "batch_size"),
        (lambda: Smooth(HalfSpace(0), 3, 0.5).predict(torch.full((2,), math.nan), 9, 0.1, 9), "x"),
    ],
)
def test_bad_arguments(call: object, argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{argument} "):
        call()  # type: ignore[operator]


IMAGE = torch.full((3, 4, 5), 0.25)


@pytest.mark.parametrize(
    "x",
    [
        IMAGE[None],
        IMAGE.double(),
        IMAGE.half(),
        IMAGE.bfloat16(),
        IMAGE.clone().requires_grad_(),
        IMAGE.transpose(0, 2).contiguous().transpose(0, 2),
        IMAGE.numpy()[:, ::-1, ::-1],
        IMAGE.numpy().astype(np.longdouble),
        IMAGE.numpy().astype(">f4")[None],
        np.broadcast_to(np.float64(0.25), (3, 4, 5)),
        IMAGE.tolist(),
    ],
)
def test_inputs_are_taken_as_cohens_class_takes_them(x: object) -> None:
    smooth = [Smooth(HalfSpace(-0.5), 3, 0.5) for _ in range(2)]
    expected = smooth[0].certify(IMAGE, 20, 300, 0.01, 100)
    assert smooth[1].certify(x, 20, 300, 0.01, 100) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "rule"),
    [
        (torch.stack([IMAGE, IMAGE]), "must be one input.*pass one row after another"),
        ((IMAGE * 255).to(torch.uint8), "must be floating point; .*divide 0 .. 255"),
        ((IMAGE * 255).numpy().astype(np.uint8), "must be floating point"),
        (IMAGE.long(), "must be floating point"),
        (IMAGE > 0, "must be floating point"),
        (IMAGE + 1j, "must be floating point"),
        (np.array(["a"]), "must be floating point"),
        (IMAGE.double() * 1e300, "must hold finite numbers of float32"),
        (IMAGE.double().numpy() * 1e40, "must hold finite numbers of float32"),
        (IMAGE / 0, "must hold finite numbers"),
        (torch.zeros(0), "must hold finite numbers"),
        (IMAGE.to_sparse(), "must be a dense tensor"),
        (IMAGE.to("meta"), "must be a dense tensor"),
        (np.ma.masked_less(IMAGE.numpy(), 1), "must be a plain array"),
        ([[1.0], [1.0, 2.0]], "must be an array of numbers"),
    ],
)
def test_inputs_it_cannot_mean_are_refused(x: object, rule: str) -> None:
    with pytest.raises(ArgumentError, match=f"^x {rule}"):
        Smooth(HalfSpace(-0.5), 3, 0.5).certify(x, 20, 300, 0.01, 100)  # type: ignore[arg-type]


class BatchMean(HalfSpace):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean())


def test_the_classifier_is_tried_as_any_network_is() -> None:
    for classifier in (BatchMean(-0.5), lambda x: BatchMean(-0.5)(x)):
        with pytest.raises(FileError, match="whatever else is in the batch"):
            Smooth(classifier, 3, 0.5).certify(IMAGE, 20, 300, 0.01, 100)
    with pytest.raises(FileError, match="logits"):
        Smooth(HalfSpace(-0.5), 4, 0.5).predict(IMAGE, 300, 0.01, 100)


def test_each_call_sees_the_classifier_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []
    build = Bundle.build

    def counted(bundle: Bundle, role: str) -> torch.nn.Module:
        tries.append(role)
        return build(bundle, role)

    monkeypatch.setattr(Bundle, "build", counted)
    network = HalfSpace(-0.5)
    smooth = Smooth(network, 3, 0.5)

    def answer() -> int:
        return smooth.predict(torch.zeros(4), 500, 0.001, 100)

    assert [answer(), answer()] == [1, 1]
    assert len(tries) == 1  # tried once, not at every call
    handle = network.register_forward_hook(lambda module, args, y: y.flip(1))
    assert answer() == 1
    network.threshold.data.add_(1.0)
    assert answer() == 2
    handle.remove()
    assert answer() == 0
    network.forward = lambda x: torch.eye(3)[[2] * len(x)]  # type: ignore[method-assign]
    assert answer() == 2
    assert len(tries) == 5


def test_training_parts_are_put_into_evaluation_mode() -> None:
    network = torch.nn.Sequential(torch.nn.Dropout(0.9), HalfSpace(-0.5)).train()
    assert Smooth(network, 3, 0.5).certify(IMAGE, 20, 300, 0.01, 100)[0] == 1
    assert not network.training


def test_pixels_up_to_255_beside_a_small_sigma_are_warned_of() -> None:
    pixels = torch.tensor([0.0, 255.0])
    with pytest.warns(UserWarning, match=r"x reaches 255, and sigma is 0\.25 .* divided by 255"):
        Smooth(HalfSpace(-0.5), 3, 0.25).predict(pixels, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Smooth(HalfSpace(-0.5), 3, 0.25).predict((pixels / 255 - 0.5) / 0.05, 50)
        Smooth(HalfSpace(-0.5), 3, 64.0).predict(pixels, 50)
