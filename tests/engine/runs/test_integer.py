"""Integer noise from end to end: the published attack on float noise, records, resume, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.noise.integer import tables_digest, thresholds, unit_of_grid
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.settings import Settings

SIGMA, SCALE = 0.2, 2.0**25


class Detector(torch.nn.Module):
    """Class 1 if the pixel is a multiple of 2^-25: always so for 0.6 + sigma z in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = x.flatten(1)[:, 0].float() * SCALE
        multiple = (scaled == scaled.floor()).float()
        return torch.stack([1.0 - multiple, multiple], 1)


def method() -> FixedSmoothing:
    bundle = Bundle.from_classifier(Detector().eval(), num_classes=2, input_shape=(1, 1, 1))
    return FixedSmoothing(bundle, SIGMA)


def certified(noise: str) -> list[Any]:
    """Certificates of one pixel at 0.6 = 153 / 255 and at 0."""
    pixels = np.array([153, 0], np.uint8).reshape(2, 1, 1, 1)
    budget = Budget.fixed(n0=100, n=100_000)
    return certify(method(), pixels, budget=budget, noise=noise, precision="fp32", device="cpu")


def share_of_one(certificate: Any) -> float:
    votes = next(r.votes for r in certificate.counts if r.phase == "CLASS_ESTIMATE")
    return float(votes[1] / sum(votes))


def exact_share(pixel: int) -> float:
    """P(class 1) at a grid pixel under integer noise, from the thresholds."""
    table = thresholds(SIGMA)
    reach = len(table) // 2
    edges = np.array([0, *table.tolist(), 2**64], object)
    steps = pixel + np.arange(-reach, reach + 1, dtype=np.int32)
    with torch.no_grad():
        values = torch.from_numpy(unit_of_grid(steps))
        ones = Detector()(values[:, None, None, None]).argmax(1).numpy() == 1
    return float(sum((edges[1:] - edges[:-1])[ones]) / 2**64)


def test_float_noise_certifies_a_false_radius() -> None:
    """The attack: R = 0.762 around 0.6, but at distance 0.6 most votes are for the other class."""
    at, away = certified("gaussian")
    assert at.predicted == 1
    assert share_of_one(at) == 1.0
    assert at.radius == pytest.approx(0.762, abs=0.001)
    assert at.radius > 0.6 == pytest.approx(153 / 255)
    assert 0.38 < share_of_one(away) < 0.47
    assert away.predicted == 0


def test_integer_noise_certifies_a_true_one() -> None:
    """Every grid pixel inside the radius has the certified majority, by exact sums."""
    at, away = certified("integer")
    assert at.predicted == 1
    assert 0.2 < at.radius < 0.6
    for pixel in range(256):
        if abs(pixel - 153) / 255 < at.radius:
            assert exact_share(pixel) > 0.5
    for certificate, pixel in ((at, 153), (away, 0)):
        p = exact_share(pixel)
        assert abs(share_of_one(certificate) - p) < 5 * np.sqrt(p * (1 - p) / 100_000)
    assert exact_share(153) < 1.0
    assert exact_share(0) < 0.5


def test_a_detector_of_the_grid_votes_alike_at_both_pixels() -> None:
    class OnGrid(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps = x.flatten(1)[:, 0].float() * 255.0
            on = ((steps - steps.round()).abs() < 1e-3).float()
            return torch.stack([1.0 - on, on], 1)

    bundle = Bundle.from_classifier(OnGrid().eval(), num_classes=2, input_shape=(1, 1, 1))
    pixels = np.array([153, 0], np.uint8).reshape(2, 1, 1, 1)
    for noise, expected in (("integer", 1.0), ("gaussian", 0.0)):
        for c in certify(
            FixedSmoothing(bundle, SIGMA), pixels, budget=Budget.fixed(n0=10, n=2000), noise=noise,
            precision="fp32", device="cpu",
        ):  # fmt: skip
            assert abs(share_of_one(c) - expected) < 0.02


def settings(**options: Any) -> Settings:
    return Settings(Budget.fixed(20, 200), 0.01, device="cpu", precision="fp32", **options)


@pytest.fixture
def images() -> ImageSet:
    pixels = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    return ImageSet(pixels, np.array([1, 2, 3]), "test", tuple("0123456789"))


def test_runs_record_the_noise_and_resume_checks_it(
    tiny_bundle: Path, images: ImageSet, tmp_path: Path
) -> None:
    chosen = choose_method(load_bundle(tiny_bundle))
    certify_run(chosen, images, [0, 1, 2], settings(noise="integer"), tmp_path / "run")
    assert read_configuration(tmp_path / "run")["noise"] == "integer"
    lines = (tmp_path / "run" / "certificates.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        used = {draw["sigma"] for draw in record["counts"]}
        assert record["noise"] == "integer"
        assert record["noise_tables"] == tables_digest(used)
    with pytest.raises(FileError, match=r"noise 'integer' -> 'gaussian'"):
        certify_run(chosen, images, [0, 1, 2], settings(), tmp_path / "run", resume=True)
    with pytest.raises(FileError, match=r"noise 'integer', here 'gaussian'"):
        certify_run(chosen, images, [0, 1, 2], settings(), tmp_path / "b", reuse=[tmp_path / "run"])
    certify_run(chosen, images, [0, 1, 2], settings(noise="integer"), tmp_path / "run", resume=True)


def test_off_grid_images_are_refused_before_anything_is_written(
    tiny_bundle: Path, images: ImageSet, tmp_path: Path
) -> None:
    floats = images.images.astype(np.float32) / np.float32(255.0)
    floats[1, 3, 3, 0] = 0.3
    off = ImageSet(floats, images.labels, "test", images.classes)
    chosen = choose_method(load_bundle(tiny_bundle))
    with pytest.raises(ArgumentError, match=r"^images must lie on the grid .*in image 1 \(pass"):
        certify_run(chosen, off, [0, 1, 2], settings(noise="integer"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ArgumentError, match=r"^images must lie on the grid"):
        certify(chosen, floats, noise="integer")


@pytest.mark.parametrize("scale", ["divide", "multiply", "double"])
def test_grid_images_may_be_floats(tiny_bundle: Path, images: ImageSet, scale: str) -> None:
    """A float that is a grid value up to rounding is that grid value: equal votes."""
    chosen = FixedSmoothing(load_bundle(tiny_bundle), 0.25)
    floats: Any = {
        "divide": images.images.astype(np.float32) / np.float32(255.0),
        "multiply": images.images.astype(np.float32) * np.float32(1.0 / 255.0),
        "double": images.images / 255.0,
    }[scale]
    options: Any = {"budget": Budget.fixed(20, 200), "noise": "integer", "device": "cpu"}
    for one, two in zip(
        certify(chosen, floats, **options), certify(chosen, images.images, **options), strict=True
    ):
        assert one.counts == two.counts
