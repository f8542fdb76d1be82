"""Votes that adaptive budgets save against a fixed n, and what they cost in certified share.

    python benchmarks/accuracy/budgets.py [--logs ../shared/logs] [--images 60] [--out FILE]

Part 1 simulates: each image of a published log has p_A = Phi(radius / sigma), the probability its
radius stands for; abstentions get 1/2. Votes are binomial. n = 100,000, alpha = 0.001 for all.
CertifyAdaptive of Horvath et al. answers the same question as `decide` with rounds of 1,000, 10,000
and 100,000 fresh votes after n0 = 100. Part 2 certifies digits with the bundled model: real votes,
selector and classifier.

Both budgets run the procedures that `certify` runs. The fixed budget of part 1 is computed for the
same images from fresh votes. Simulated p_A are lower bounds, so images that are certain (all votes
agree) appear as p_A = Phi(3.8 or so); this makes both budgets a little harder.
"""

import argparse
import csv
import json
import os
import platform
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from scipy.special import ndtr

from dualsmooth.engine import (
    Budget,
    Certificate,
    DualSmoothing,
    FixedSmoothing,
    certify,
    load_bundle,
)
from dualsmooth.engine.bounds import clopper_pearson_lower, clopper_pearson_upper
from dualsmooth.engine.data import load_images
from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.models.network import OneNetwork
from dualsmooth.engine.radius.decision import decision_plan
from dualsmooth.engine.runtime.drive import answered

Row = dict[str, Any]

N, ALPHA, TOLERANCE = 100_000, 1e-3, 0.05
RATIOS = (0.5, 1.0, 2.0)
ROUNDS, FUTILITY = (1000, 10_000, 100_000), 1e-4
LOGS = {
    "ImageNet 0.50": ("cohen2019/imagenet_resnet50_sigma_0.50.tsv", 0.5),
    "CIFAR 0.25": ("cohen2019/cifar10_resnet110_sigma_0.25.tsv", 0.25),
    "CIFAR 0.50": ("cohen2019/cifar10_resnet110_sigma_0.50.tsv", 0.5),
    "CIFAR Consistency 0.25": ("acr2025/cifar10/consistency_sigma_0.25.tsv", 0.25),
    "CIFAR Consistency 1.00": ("acr2025/cifar10/consistency_sigma_1.0.tsv", 1.0),
}


def probabilities(path: Path, sigma: float) -> list[float]:
    """p_A of about 500 images of a log in Cohen et al.'s format, evenly spaced."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    rows = rows[:: max(1, len(rows) // 500)]
    radii = [float(row["radius"]) if row["predict"] != "-1" else 0.0 for row in rows]
    return [float(ndtr(radius / sigma)) for radius in radii]


def simulate(p: float, sigma: float, budget: Budget, rng: np.random.Generator) -> tuple[float, int]:
    """Radius and votes of one image whose other votes all go to one other class."""
    votes = 0

    def answer(draw: Draw) -> Counts:
        nonlocal votes
        votes += draw.count
        k = int(rng.binomial(draw.count, p))
        return np.array([k, draw.count - k, 0], np.int64)

    procedure = FixedSmoothing(OneNetwork(), sigma).certify(budget, ALPHA)
    return answered(procedure, answer).radius, votes


def certify_adaptive(
    draw: Callable[[int], int], p0: float, sizes: Sequence[int], alpha: float, beta: float
) -> tuple[bool, int]:
    """Whether P(vote for the class) > p0 was shown, and the votes drawn.

    ``draw(n)`` says how many of n fresh votes are for the class, ``sizes`` are the votes of each
    round; alpha and beta bound a wrong yes, and giving up although p > p0.
    """
    used = 0
    for size in sizes[:-1]:
        k, used = draw(size), used + size
        if clopper_pearson_lower(k, size, alpha / len(sizes)) > p0:
            return True, used
        if clopper_pearson_upper(k, size, beta / (len(sizes) - 1)) < p0:
            return False, used
    k, last = draw(sizes[-1]), sizes[-1]
    return bool(clopper_pearson_lower(k, last, alpha / len(sizes)) > p0), used + last


def published(p: list[float], ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """CertifyAdaptive for every image: whether r = ratio sigma was shown, and votes drawn."""
    rng, p0 = np.random.default_rng(seed), float(ndtr(ratio))

    def one(true: float) -> tuple[bool, int]:
        chosen = true if int(rng.binomial(100, true)) >= 50 else 1.0 - true
        draw = partial(rng.binomial, p=chosen)
        yes, used = certify_adaptive(lambda n: int(draw(n)), p0, ROUNDS, ALPHA, FUTILITY)
        return yes, used + 100

    outcomes = [one(value) for value in p]
    return np.array([yes for yes, _ in outcomes]), np.array([v for _, v in outcomes])


def all_of(
    p: list[float], sigma: float, budget: Budget, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Radii and votes of all images."""
    rng = np.random.default_rng(seed)
    outcomes = [simulate(value, sigma, budget, rng) for value in p]
    return np.array([r for r, _ in outcomes]), np.array([v for _, v in outcomes])


def simulated(name: str, path: Path, sigma: float) -> list[Row]:
    """Rows of part 1 for one log."""
    p, rows = probabilities(path, sigma), []
    fixed, fixed_votes = all_of(p, sigma, Budget.fixed(n=N), 1)

    def row(kind: str, ratio: float | None, votes: np.ndarray, share: float, beaten: float) -> Row:
        factor = float(fixed_votes.mean() / votes.mean())
        kept = {"data": name, "budget": kind, "radius/sigma": ratio, "votes": float(votes.mean())}
        return kept | {"factor": factor, "share": share, "fixed share": beaten}

    for ratio in RATIOS:
        radius = ratio * sigma
        beaten = float((fixed > radius).mean())
        reached, votes = all_of(p, sigma, Budget.decide([radius], n=N), 2)
        rows.append(row("decide", ratio, votes, float((reached == radius).mean()), beaten))
        yes, votes = published(p, ratio, 2)
        rows.append(row("CertifyAdaptive", ratio, votes, float(yes.mean()), beaten))
    radii, votes = all_of(p, sigma, Budget.precise(TOLERANCE, n=N), 3)
    last = row("precise", None, votes, float((radii > 0).mean()), float((fixed > 0).mean()))
    return [*rows, last | {"ACR ratio": float(radii.sum() / fixed.sum())}]


def digits(images: int) -> list[Row]:
    """Rows of part 2: fixed 0.25 and dual on the bundled model, n = 100,000 per stage."""
    data, bundle, rows = load_images("digits"), load_bundle("digits-dual"), []
    chosen = list(range(0, len(data.labels), max(1, len(data.labels) // images)))[:images]

    def run(method: Any, budget: Budget) -> tuple[list[Certificate], float]:
        start = perf_counter()
        options: Any = dict(image_ids=chosen, labels=data.labels[chosen].tolist(), slots=32)
        found = certify(method, data.images[chosen], budget=budget, alpha=ALPHA, **options)
        return found, perf_counter() - start

    for method in (FixedSmoothing(bundle, 0.25), DualSmoothing(bundle)):
        fixed, seconds = run(method, Budget.fixed(n=N))
        rows += [
            compared(method.name, budget, *run(method, budget), fixed, seconds)
            for budget in (
                *(Budget.decide([ratio * 0.25], n=N) for ratio in RATIOS),
                Budget.decide([ratio * 0.25 for ratio in RATIOS], n=N),
                Budget.precise(TOLERANCE, n=N),
            )
        ]
    return rows


def compared(
    name: str,
    budget: Budget,
    found: list[Certificate],
    seconds: float,
    fixed: list[Certificate],
    fixed_seconds: float,
) -> Row:
    """One row of part 2; shares are of images certified beyond the (last) radius, right or not."""
    votes, fixed_votes = (float(np.mean([c.draws for c in run])) for run in (found, fixed))
    edge = budget.radii[-1] if budget.radii else 0.0
    row = {
        "data": f"digits {name}",
        "budget": budget.kind,
        "images": len(found),
        "votes": votes,
        "factor": fixed_votes / votes,
        "time factor": fixed_seconds / seconds,
        "radius/sigma": [r / 0.25 for r in budget.radii] or None,
        "share": float(np.mean([c.radius >= edge and c.radius > 0 for c in found])),
        "fixed share": float(np.mean([c.radius > edge for c in fixed])),
    }
    if budget.kind == "precise":
        row["ACR ratio"] = sum(c.radius for c in found) / sum(c.radius for c in fixed)
    return row


def planning_seconds() -> dict[str, float]:
    """Time to make each plan, once per run."""
    seconds = {}
    for ratio in RATIOS:
        start = perf_counter()
        decision_plan(ratio, 1.0, N, ALPHA)
        seconds[f"r/sigma {ratio:g}"] = perf_counter() - start
    return seconds


def main() -> None:
    """Print the table and write it as JSON."""
    root = Path(__file__).parents[2]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", type=Path, default=root.parent / "shared" / "logs")
    parser.add_argument("--images", type=int, default=60)
    results = root / "benchmarks" / "results" / "adaptive_budgets.json"
    parser.add_argument("--out", type=Path, default=results)
    options = parser.parse_args()
    planning = planning_seconds()
    rows = []
    for name, (path, sigma) in LOGS.items():
        rows += simulated(name, options.logs / path, sigma)
    rows += digits(options.images) if options.images else []
    for row in rows:
        ratio = row["radius/sigma"]
        kept = f"  ACR x{row['ACR ratio']:.3f}" if "ACR ratio" in row else ""
        print(
            f"{row['data']:<30}{row['budget']:<17}{ratio!s:<18}{row['votes']:>9.0f} votes"
            f"{row['factor']:>7.1f}x  share {100 * row['share']:.1f} "
            f"(fixed {100 * row['fixed share']:.1f}){kept}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "n": N,
        "alpha": ALPHA,
        "tolerance": TOLERANCE,
        "planning seconds": planning,
        "rows": rows,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("numpy", "scipy", "torch")},
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
