"""How much the padded batch shape matters: votes and certificates at two shapes.

    python benchmarks/accuracy/batch_shapes.py [--images 540] [--n 10000] [--shapes 64 1000]

The padded batch shape is part of what is certified, because convolutions may add in another order
at another shape. This counts the votes that change (near ties) and the certificates that do.
"""

import argparse

import numpy as np

from dualsmooth.engine import Budget, Certificate, DualSmoothing, certify, load_bundle
from dualsmooth.engine.data import load_images


def changed_votes(first: Certificate, second: Certificate) -> tuple[int, int]:
    """Votes that differ and votes in all, over the draws both certificates made."""
    differ = total = 0
    others = {(r.phase, r.level): r.votes for r in second.counts}
    for record in first.counts:
        if (record.phase, record.level) in others:
            other = np.array(others[record.phase, record.level])
            differ += int(np.abs(np.array(record.votes) - other).sum()) // 2
            total += record.count
    return differ, total


def main() -> None:
    """Print votes changed in a million and the number of certificates changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=540)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--shapes", type=int, nargs=2, default=(64, 1000))
    options = parser.parse_args()
    data, bundle = load_images("digits"), load_bundle("digits-dual")
    images = data.images[: options.images]
    runs = [
        certify(DualSmoothing(bundle), images, budget=Budget.fixed(100, options.n), batch_size=size)
        for size in options.shapes
    ]
    pairs = list(zip(*runs, strict=True))
    differ, total = np.sum([changed_votes(*pair) for pair in pairs], axis=0)
    moved = [a.image_id for a, b in pairs if (a.predicted, a.radius) != (b.predicted, b.radius)]
    largest = max(abs(a.radius - b.radius) for a, b in pairs)
    print(f"batch shapes {options.shapes[0]} and {options.shapes[1]}, {len(pairs)} images")
    print(f"votes changed: {differ} of {total:,} ({1e6 * differ / total:.2f} in a million)")
    print(f"certificates changed: {len(moved)} (largest change of a radius {largest:.2e})")


if __name__ == "__main__":
    main()
