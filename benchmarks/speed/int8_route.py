"""What int8 votes give: speed, disagreement, certified accuracy, and radii of float32 from them.

    python benchmarks/speed/int8_route.py [--bundle digits-dual] [--sigma 0.25] [--images 100]
        [--n 10000] [--pairs 10000] [--rounds 15] [--votes 8192] [--threads 1] [--out FILE]

`float32` and `int8` are the engine's, the second a bundle that `dualsmooth quantize` makes of the
first; `onnx` before a name is ONNX Runtime's own form, and `pairs` runs both of its networks on
each sample. The bundles `resnet20` and `resnet110` are CIFAR ResNets trained here for `EPOCHS`
epochs on scikit-learn's digits enlarged to 32x32x3, `lenet` one on digits of 28x28. Networks are
calibrated on training images and certified on test images, with the fixed method. Speeds are of one
image's votes, noise and counting included, all interleaved in one process on the same threads;
``--images 0`` measures nothing else, ``--epochs 0`` leaves weights random, for speeds alone, and
``--no-onnx`` leaves out what takes minutes on deep networks.
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
from dualsmooth.engine import Budget, Bundle, Certificate, FixedSmoothing, certify, load_bundle
from dualsmooth.engine.data import load_images
from dualsmooth.engine.files import write_json
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.quantize.bundle import quantize
from dualsmooth.engine.quantize.calibration import Calibration
from dualsmooth.engine.samplers.choose import make_sampler
from dualsmooth.engine.samplers.sampler import Sampler, Segment
from dualsmooth.engine.settings import Settings
from dualsmooth.export.certifier import OnnxCertifier
from dualsmooth.export.deployment import Terms
from dualsmooth.export.write import export_bundle

CALIBRATED_ON, EPOCHS, BATCH = 128, 3, 64
TRAINED = {"resnet20": "cifar_resnet20", "resnet110": "cifar_resnet110", "lenet": "lenet"}
RADII = (0.0, 0.25, 0.5, 0.75)
Images = NDArray[np.generic]
Work = dict[str, Callable[[], object]]


def enlarged(images: Images, name: str) -> Images:
    """Digits 8x8x1 as 32x32x3, or as 28x28x1 for LeNet."""
    if name not in TRAINED:
        return images
    if name == "lenet":
        return np.pad(images.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2), (0, 0)))
    return images.astype(np.uint8).repeat(4, 1).repeat(4, 2).repeat(3, 3)


def trained(name: str, sigma: float, epochs: int) -> Bundle:
    """A network for enlarged digits with noise, trained with a fixed seed."""
    data = load_images("digits:train")
    pixels = unit_float(enlarged(data.images, name))
    x, y = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(data.labels)
    torch.manual_seed(0)
    network = create(TRAINED[name], {}).train()
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, max(1, steps))
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x))[: len(x) // BATCH * BATCH], BATCH):
            noisy = x[rows] + sigma * torch.randn(x[rows].shape)
            loss = torch.nn.functional.cross_entropy(network(noisy), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    return Bundle.from_classifier(network.eval(), num_classes=10, input_shape=shape)


def accuracy(found: Sequence[Certificate], labels: Sequence[int]) -> dict[str, Any]:
    """Certified accuracy at some radii, in percent, and the mean radius of correct answers."""
    pairs = zip(found, labels, strict=True)
    radii = np.array([c.radius if c.predicted == label else -1.0 for c, label in pairs])
    shares = {f"{r:g}": round(100 * float((radii > r).mean()), 1) for r in RADII}
    return {"certified_accuracy": shares, "mean_radius": round(float(radii.clip(0).mean()), 4)}


def compare(
    bundles: dict[str, Bundle],
    routes: dict[str, OnnxCertifier],
    images: Images,
    labels: Sequence[int],
    chosen: argparse.Namespace,
) -> dict[str, Any]:
    """Certificates of every route beside each other."""
    budget = Budget.fixed(100, chosen.n)
    found: dict[str, Sequence[Certificate]] = {
        name: certify(
            FixedSmoothing(bundle, chosen.sigma), images, budget=budget, threads=chosen.threads
        )
        for name, bundle in bundles.items()
    }
    for name, route in routes.items():
        found[name] = [route.certify(x, n=chosen.n, image_id=i) for i, x in enumerate(images)]
    told: dict[str, Any] = {name: accuracy(made, labels) for name, made in found.items()}
    answers = zip(found["float32"], found["int8"], strict=True)
    told["same_answer_int8"] = sum(a.predicted == b.predicted for a, b in answers)
    return told | (onnx_pairs(found) if routes else {})


def onnx_pairs(found: dict[str, Sequence[Certificate]]) -> dict[str, Any]:
    """How often ONNX Runtime's two networks disagree, and what float32's radii lose by it."""
    pairs = [c.counts[-1] for c in found["onnx float32 from int8"] if len(c.counts) == 3]
    lost = [
        a.radius - b.radius
        for a, b in zip(found["onnx float32"], found["onnx float32 from int8"], strict=True)
        if a.predicted is not None
    ]
    drawn, differing = sum(p.count for p in pairs), sum(sum(p.votes[:-1]) for p in pairs)
    median, most = (round(float(f(lost)), 4) if lost else None for f in (np.median, np.max))
    return {
        "onnx_disagreement": differing / drawn if drawn else None,
        "onnx_radius_lost": {"median": median, "max": most},
    }


def samplers(bundles: dict[str, Bundle], sigma: float, threads: int) -> dict[str, Any]:
    """The engine's sampler of each bundle's classifier, with its name."""
    made = {}
    for name, bundle in bundles.items():
        role = bundle.classifier_at(sigma)
        settings = Settings(device="cpu", threads=threads)
        batch = settings.padded_batch(bundle.input_shape)
        arguments = ({role: bundle.build(role)}, {role: bundle.outputs(role)}, bundle.input_shape)
        made[name] = make_sampler(*arguments, batch_size=batch, seed=0, threads=threads), role
    return made


def speeds(work: Work, votes: int, rounds: int) -> dict[str, Any]:
    """Votes per second of every contestant, interleaved, and ratios of times."""
    seconds = interleave(work, rounds)
    named = {
        "float32_time_over_int8": ("float32", "int8"),
        "onnx_float32_time_over_onnx_int8": ("onnx float32", "onnx int8"),
        "onnx_int8_time_over_int8": ("onnx int8", "int8"),
    }
    return {
        "votes_per_second": {name: quartiles(times, votes) for name, times in seconds.items()},
        **{
            name: ratio(seconds[a], seconds[b])
            for name, (a, b) in named.items()
            if {a, b} <= seconds.keys()
        },
    }


def deployed(
    bundle: Bundle, calibrated: Images, folder: Path, chosen: argparse.Namespace
) -> dict[str, OnnxCertifier]:
    """ONNX Runtime's float32 and int8 forms of a bundle, and both on each sample."""
    fp32, int8, terms = folder / "fp32", folder / "int8", Terms("fixed", chosen.sigma)
    export_bundle(bundle, fp32, terms)
    export_bundle(bundle, int8, terms, int8=Calibration(calibrated))
    common: dict[str, Any] = {"sigma": chosen.sigma, "threads": chosen.threads}
    return {
        "onnx float32": OnnxCertifier(fp32, **common),
        "onnx int8": OnnxCertifier(int8, **common),
        "onnx float32 from int8": OnnxCertifier(int8, pairs=max(1, chosen.pairs), **common),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="digits-dual")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--out", type=Path)
    counts = {"images": 100, "n": 10_000, "pairs": 10_000, "rounds": 15, "votes": 8192}
    for name, count in (counts | {"threads": 1, "epochs": EPOCHS}).items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--no-onnx", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure one bundle; print and write one JSON object."""
    chosen = arguments()
    settings = {k: v for k, v in vars(chosen).items() if k != "out"}
    report: dict[str, Any] = {"machine": about_machine(), "settings": settings}
    train, test = (load_images(f"digits:{part}") for part in ("train", "test"))
    pixels, calibrated = (enlarged(part.images, chosen.bundle) for part in (test, train))
    calibrated = calibrated[:: len(calibrated) // CALIBRATED_ON][:CALIBRATED_ON]
    bundle = (
        trained(chosen.bundle, chosen.sigma, chosen.epochs)
        if chosen.bundle in TRAINED
        else load_bundle(chosen.bundle)
    )
    level = None if bundle.sigmas else chosen.sigma
    bundles = {"float32": bundle, "int8": quantize(bundle, calibrated, sigma=level)}
    with tempfile.TemporaryDirectory() as folder:
        routes = {} if chosen.no_onnx else deployed(bundle, calibrated, Path(folder), chosen)
        made: dict[str, tuple[Sampler, str]] = samplers(bundles, chosen.sigma, chosen.threads)
        for name, route in routes.items():
            made[name] = route.sampler, route.method.roles["from" in name]
        segment, work = Segment(0, 0, chosen.sigma, 3, 0, chosen.votes), Work()
        for name, (sampler, role) in made.items():
            sampler.load(0, unit_float(pixels[0]))
            work["onnx pairs" if "from" in name else name] = partial(sampler.count, role, [segment])
        report |= speeds(work, chosen.votes, chosen.rounds)
        for name in bundles:
            made[name][0].close()
        if chosen.images:
            labels = test.labels[: chosen.images].tolist()
            report |= compare(bundles, routes, pixels[: chosen.images], labels, chosen)
    print(json.dumps(report, indent=1))
    if chosen.out is not None:
        write_json(chosen.out, report)


if __name__ == "__main__":
    main()
