"""What int8 votes give: speed, disagreement with float32, and radii of both from them.

    python benchmarks/speed/int8_route.py [--bundle digits-dual] [--sigma 0.25] [--images 100]
        [--n 10000] [--pairs 10000] [--rounds 15] [--out FILE]

The bundle `resnet20` is a CIFAR ResNet-20 trained here for `EPOCHS` epochs on scikit-learn's digits
enlarged to 32x32x3. Networks are calibrated on training images and certified on test images, with
the fixed method. Speeds are of one image's votes in ONNX Runtime, noise and counting included, all
contestants interleaved in one process on the same threads; `pairs` runs both networks.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks.speed.rounds import about_machine, interleave, quartiles, ratio
from dualsmooth.engine import Bundle, Certificate, load_bundle
from dualsmooth.engine.data import load_images
from dualsmooth.engine.files import write_json
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.quantize.calibration import Calibration
from dualsmooth.engine.samplers.sampler import Sampler, Segment
from dualsmooth.export.certifier import OnnxCertifier
from dualsmooth.export.deployment import Terms
from dualsmooth.export.write import export_bundle

CALIBRATED_ON, EPOCHS, BATCH = 128, 3, 64
Images = NDArray[np.generic]


def enlarged(images: Images) -> NDArray[np.uint8]:
    """Digits 8x8x1 as 32x32x3."""
    return images.astype(np.uint8).repeat(4, 1).repeat(4, 2).repeat(3, 3)


def resnet20(sigma: float) -> Bundle:
    """A ResNet-20 for enlarged digits with noise, trained with a fixed seed."""
    data = load_images("digits:train")
    x = torch.from_numpy(unit_float(enlarged(data.images))).permute(0, 3, 1, 2)
    y = torch.from_numpy(data.labels)
    torch.manual_seed(0)
    network = create("cifar_resnet20", {}).train()
    steps = EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x))[: len(x) // BATCH * BATCH], BATCH):
            noisy = x[rows] + sigma * torch.randn(x[rows].shape)
            loss = torch.nn.functional.cross_entropy(network(noisy), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return Bundle.from_classifier(network.eval(), num_classes=10, input_shape=(32, 32, 3))


def deploy(name: str, sigma: float, folder: Path) -> tuple[Path, Path, Images]:
    """Float32 and int8 deployments of a bundle, and the test images it is certified on."""
    train, test = (load_images(f"digits:{part}").images for part in ("train", "test"))
    if name == "resnet20":
        bundle, train, test = resnet20(sigma), enlarged(train), enlarged(test)
    else:
        bundle = load_bundle(name)
    step = len(train) // CALIBRATED_ON
    terms = Terms("fixed", sigma)
    export_bundle(bundle, folder / "fp32", terms)
    export_bundle(bundle, folder / "int8", terms, int8=Calibration(train[::step][:CALIBRATED_ON]))
    return folder / "fp32", folder / "int8", test


def certificates(certifier: OnnxCertifier, images: Images, n: int) -> list[Certificate]:
    """Certificates of images whose ids are their positions."""
    return [certifier.certify(image, n=n, image_id=i) for i, image in enumerate(images)]


def radii(found: Sequence[Certificate]) -> dict[str, Any]:
    """How many are certified and the mean radius, abstentions as 0."""
    certified = sum(c.predicted is not None for c in found)
    mean = float(np.mean([c.radius for c in found]))
    return {"certified": certified, "mean_radius": round(mean, 4)}


def compare(routes: dict[str, OnnxCertifier], images: Images, n: int) -> dict[str, Any]:
    """Certificates of every route beside each other."""
    found = {name: certificates(route, images, n) for name, route in routes.items()}
    pairs = [c.counts[-1] for c in found["fp32 from int8"] if len(c.counts) == 3]
    lost = [
        a.radius - b.radius
        for a, b in zip(found["fp32"], found["fp32 from int8"], strict=True)
        if a.predicted is not None
    ]
    drawn, differing = sum(p.count for p in pairs), sum(sum(p.votes[:-1]) for p in pairs)
    return {name: radii(made) for name, made in found.items()} | {
        "same_answer_int8": sum(
            a.predicted == b.predicted for a, b in zip(found["fp32"], found["int8"], strict=True)
        ),
        "disagreement": differing / drawn,
        "radius_lost": {"median": round(float(np.median(lost)), 4), "max": round(max(lost), 4)},
    }


def speeds(
    routes: dict[str, OnnxCertifier], image: Images, sigma: float, votes: int, rounds: int
) -> dict[str, Any]:
    """Votes per second of every network, interleaved."""
    segment = Segment(0, 0, sigma, 3, 0, votes)
    work: dict[str, Callable[[], object]] = {}
    for name, role in (("fp32", 0), ("int8", 0), ("fp32 from int8", 1)):
        sampler: Sampler = routes[name].sampler
        sampler.load(0, unit_float(image))
        network = routes[name].method.roles[role]
        work["pairs" if role else name] = partial(sampler.count, network, [segment])
    seconds = interleave(work, rounds)
    return {
        "votes_per_second": {name: quartiles(times, votes) for name, times in seconds.items()},
        "fp32_time_over_int8": ratio(seconds["fp32"], seconds["int8"]),
    }


def main() -> None:
    """Measure one bundle; print and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="digits-dual")
    parser.add_argument("--sigma", type=float, default=0.25)
    counts = {
        "images": 100,
        "n": 10_000,
        "pairs": 10_000,
        "rounds": 15,
        "votes": 4096,
        "threads": 1,
    }
    for name, count in counts.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    settings = {k: v for k, v in vars(chosen).items() if k != "out"}
    report: dict[str, Any] = {"machine": about_machine(), "settings": settings}
    with tempfile.TemporaryDirectory() as folder:
        fp32, int8, test = deploy(chosen.bundle, chosen.sigma, Path(folder))
        common: dict[str, Any] = {"sigma": chosen.sigma, "threads": chosen.threads}
        routes = {
            "fp32": OnnxCertifier(fp32, **common),
            "int8": OnnxCertifier(int8, **common),
            "fp32 from int8": OnnxCertifier(int8, pairs=chosen.pairs, **common),
        }
        report |= speeds(routes, test[0], chosen.sigma, chosen.votes, chosen.rounds)
        report |= compare(routes, test[: chosen.images], chosen.n)
    print(json.dumps(report, indent=1))
    if chosen.out is not None:
        write_json(chosen.out, report)


if __name__ == "__main__":
    main()
