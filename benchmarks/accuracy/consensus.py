"""What K-consensus saves against soft voting, and what both certify.

    python benchmarks/accuracy/consensus.py [--members 5] [--epochs 40] [--images 60] [--n 1000]

Trains small classifiers of scikit-learn's digits under noise, which differ in their seed, and joins
them. First a gate: consensus must vote as its definition says, row by row. Then votes per second of
every contestant through the sampler of `certify`, interleaved, the share of member evaluations
that consensus still makes (with and without the padding of its sub-batches), and certificates.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dualsmooth.benchmarks.speed.rounds import interleave, quartiles, ratio
from dualsmooth.engine import Budget, Bundle, Certificate, FixedSmoothing, certify
from dualsmooth.engine.data import load_images
from dualsmooth.engine.images import as_unit_float
from dualsmooth.engine.machine import machine
from dualsmooth.engine.models.ensemble import Consensus, SoftVoting
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.choose import make_sampler
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.train.loop import Affine, Schedule, one_thread, train_on_noise

SIGMA, BATCH, SHAPE = 0.25, 256, (8, 8, 1)
SAMPLES = 8 * BATCH
ROUNDS = 15


def members(count: int, epochs: int) -> list[nn.Module]:
    """Classifiers of the digits' training split, one per seed."""
    data = load_images("digits:train")
    images = torch.from_numpy(as_unit_float(data.images)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(data.labels)
    schedule = Schedule(epochs, Affine(0.15, 0.2, 0.1, 0.1))

    def loss(log_probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        wanted = labels[chosen].expand(len(log_probabilities), -1)
        return nn.functional.nll_loss(log_probabilities.flatten(0, 1), wanted.flatten())

    made = []
    with one_thread():
        for seed in range(count):
            torch.manual_seed(seed)
            module, draws = create("small_convnet", {}), torch.Generator().manual_seed(seed)
            made.append(train_on_noise(module, images, SIGMA, loss, schedule, draws))
    return made


def noisy_batches(images: np.ndarray) -> list[torch.Tensor]:
    """One batch of noisy copies per image."""
    draws = torch.Generator().manual_seed(1)
    noise = torch.randn(len(images), BATCH, *SHAPE, generator=draws)
    return list((torch.from_numpy(images)[:, None] + SIGMA * noise).permute(0, 1, 4, 2, 3))


def gate(network: Consensus, parts: list[nn.Module], batches: list[torch.Tensor]) -> None:
    """Stop unless every vote is the definition's; ties of rounding are none of these logits."""
    agree = len(network.first.members)
    with torch.inference_mode():
        for x in batches:
            each = torch.stack([part(x) for part in parts])
            votes = each.argmax(2)
            sure = (votes[:agree] == votes[0]).all(0)
            wanted = torch.where(sure, votes[0], each.mean(0).argmax(1))
            if (network(x).argmax(1) != wanted).float().mean() > 1e-3:
                raise SystemExit("consensus does not vote as defined")


def evaluations(network: Consensus, batches: list[torch.Tensor]) -> dict[str, float]:
    """Share of members x rows that were evaluated, per vote and with padding."""
    rows = {"padded": 0, "unsure": 0}
    early = len(network.first.members)
    late, total = len(network.rest.members), sum(len(x) for x in batches)
    count = network.rest.register_forward_hook(
        lambda module, inputs, output: rows.update(padded=rows["padded"] + len(inputs[0]))
    )
    with torch.inference_mode():
        for x in batches:
            votes = network.first(x).argmax(2)
            rows["unsure"] += int((votes != votes[0]).any(0).sum())
            network(x)
    count.remove()
    everything = total * (early + late)
    return {
        "share": (total * early + rows["unsure"] * late) / everything,
        "share with padding": (total * early + rows["padded"] * late) / everything,
        "unsure rows": rows["unsure"] / total,
    }


def speeds(networks: dict[str, nn.Module], images: np.ndarray) -> dict[str, list[float]]:
    """Seconds of the same votes by each network, interleaved."""
    segments = [Segment(slot, slot, SIGMA, 3, 0, SAMPLES) for slot in range(len(images))]
    contestants = {}
    for name, network in networks.items():
        sampler = make_sampler(
            {"m": network}, {"m": 10}, SHAPE, seed=0, batch_size=BATCH, threads=1, precision="fp32"
        )
        for slot, image in enumerate(images):
            sampler.load(slot, image)
        contestants[name] = lambda sampler=sampler: sampler.count("m", segments)
    return interleave(contestants, ROUNDS)


def certified(network: nn.Module, chosen: list[int], n: int) -> list[Certificate]:
    """Fixed smoothing of the network on test digits."""
    data = load_images("digits")
    bundle = Bundle.from_classifier(network, num_classes=10, input_shape=SHAPE)
    method, labels = FixedSmoothing(bundle, SIGMA), data.labels[chosen].tolist()
    options: dict[str, Any] = dict(image_ids=chosen, labels=labels, precision="fp32")
    return certify(method, data.images[chosen], budget=Budget.fixed(n=n), **options)


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("members", 5), ("epochs", 40), ("images", 60), ("n", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    results = Path(__file__).parents[1] / "results" / "consensus.json"
    parser.add_argument("--out", type=Path, default=results)
    options = parser.parse_args()
    parts, data = members(options.members, options.epochs), load_images("digits")
    chosen = list(range(0, len(data), max(1, len(data) // options.images)))[: options.images]
    images = as_unit_float(data.images[chosen])
    joined = {k: Consensus(parts, k).eval() for k in range(2, options.members)}
    networks: dict[str, nn.Module] = {"one member": parts[0]}
    networks["soft voting"] = SoftVoting(parts).eval()
    networks |= {f"consensus {k}": network for k, network in joined.items()}
    batches = noisy_batches(images)
    for network in joined.values():
        gate(network, parts, batches)
    seconds, rows = speeds(networks, images[:4]), list[dict[str, Any]]()
    for name, contestant in networks.items():
        found = certified(contestant, chosen, options.n)
        row: dict[str, Any] = {
            "network": name,
            "votes": quartiles(seconds[name], 4 * SAMPLES),
            "times soft voting": ratio(seconds["soft voting"], seconds[name]),
            "ACR": float(np.mean([c.radius * c.correct for c in found])),
            "certified": float(np.mean([c.correct for c in found])),
        }
        if isinstance(contestant, Consensus):
            row |= evaluations(contestant, batches)
        else:
            row["share with padding"] = 1.0 / len(parts) if contestant is parts[0] else 1.0
        rows.append(row)
        print(
            f"{name:<14}{row['votes']['per_second']:>9} votes/s"
            f"{row['times soft voting']['median']:>7.2f}x  ACR {row['ACR']:.3f}"
            f"  evaluations {row['share with padding']:.3f}"
        )
    record = vars(options) | {"sigma": SIGMA, "rows": rows, "machine": machine()}
    options.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
