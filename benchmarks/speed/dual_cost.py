"""What dual smoothing costs beside a fixed sigma: ``dualsmooth bench dual``.

Both certify the same images with one model, whose classifiers and selector have one architecture:
dual(median, interval) against the level that dual picks for most of a few images, so that for
nearly all images classifier and radii are the same (the JSON has both). Both get the same budget:

* ``precise``: as few votes as keep the radius within 5 % of that of n votes per stage. This is the
  comparison at the same tolerance of final radii; the radii of n votes are drawn too, to check it.
* ``decide``: is the radius above that level's sigma?
* ``fixed``: n votes per stage, so dual needs at least twice the votes.

A selector with joint votes classifies at tau, so that dual's images at that level cost what fixed
smoothing there costs; those at other levels pay for the selector. The votes of images at fixed's
level are told apart.

Contestants are interleaved: in each round all of them certify the same images, others in the next.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dualsmooth.benchmarks.speed.rounds import about_machine, interleave, ratio
from dualsmooth.engine import Budget, Bundle, Certificate, DualSmoothing, FixedSmoothing, certify
from dualsmooth.engine.data import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import write_json
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings

TOLERANCE, FIRST = 0.05, 16
LONG_ROUNDS = 3
"""Timed rounds, of a quarter of the images, of the fixed budget, which costs most."""

Found = dict[str, list[Certificate]]


def budgets(n: int, radius: float) -> dict[str, Budget]:
    """Budgets that dual and fixed smoothing share."""
    return {
        "precise": Budget.precise(TOLERANCE, n=n),
        "decide": Budget.decide((radius,), n=n),
        "fixed": Budget.fixed(n=n),
    }


class Contestant:
    """One method under one budget; every call certifies the next images of the data."""

    def __init__(self, session: Session, images: int, data: str = "digits") -> None:
        self._session, self._images = session, images
        self._pixels = load_images(data).images
        self.found: list[Certificate] = []

    def __call__(self) -> None:
        """Certify; images of later calls have ids of their own, and so fresh noise."""
        first = len(self.found)
        ids = range(first, first + self._images)
        pixels = self._pixels[[7 * i % len(self._pixels) for i in ids]]
        found = self._session.certify(pixels, list(ids))
        self.found += sorted(found, key=lambda c: c.image_id)


def methods(bundle: Bundle, sigma: float) -> Iterator[tuple[str, Method]]:
    """Dual, and fixed at one level."""
    yield "dual", DualSmoothing(bundle)
    yield "fixed", FixedSmoothing(bundle, sigma)


def most_picked(bundle: Bundle, data: str) -> float:
    """The level that dual picks for most of the first images that it certifies."""
    images = load_images(data).images[:FIRST]
    picked = [c.sigma for c in certify(DualSmoothing(bundle), images, budget=Budget.fixed(n=500))]
    counts = Counter(sigma for sigma in picked if sigma is not None)
    if not counts:
        raise ArgumentError("data", f"must have an image among {FIRST} that is certified", data)
    return counts.most_common(1)[0][0]


def check(contestants: dict[str, Contestant]) -> None:
    """Correctness gate: votes add up, and a radius is what its bounds say."""
    for name, contestant in contestants.items():
        for certificate in contestant.found:
            assert all(sum(r.votes) == r.count for r in certificate.counts), name
            assert certificate.radius <= max((b.radius for b in certificate.bounds), default=0.0)


def compared(found: Found, seconds: dict[str, list[float]], sigma: float) -> dict[str, Any]:
    """Ratios of dual to fixed under one budget, and what both drew and certified."""
    votes, radii = (
        {name: float(np.mean([getattr(c, key) for c in each])) for name, each in found.items()}
        for key in ("draws", "radius")
    )
    there = [i for i, c in enumerate(found["dual"]) if c.sigma == sigma]
    drawn = {name: sum(each[i].draws for i in there) for name, each in found.items()}
    return {
        "time ratio": ratio(seconds["dual"], seconds["fixed"]),
        "votes ratio": votes["dual"] / votes["fixed"],
        "votes ratio of images at fixed's level": drawn["dual"] / max(1, drawn["fixed"]),
        "votes per image": votes,
        "mean radius": radii,
        "share of images at fixed's level": len(there) / len(found["dual"]),
    }


def radii_kept(certificates: dict[str, Found]) -> dict[str, float]:
    """Mean radius of ``precise``, as a share of that of n votes for the same images."""
    kept = {}
    for name, full in certificates["fixed"].items():
        pairs = list(zip(certificates["precise"][name], full, strict=False))
        assert all(one.image_id == other.image_id for one, other in pairs)
        few, many = np.sum([(one.radius, other.radius) for one, other in pairs], axis=0)
        kept[name] = round(float(few / many), 3)
    return kept


def run(rounds: int, images: int, n: int, out: Path, bundle: Bundle, data: str) -> None:
    """Measure, print and write ``dual_cost.json``; ``images`` are certified in each round."""
    sigma = most_picked(bundle, data)
    report: dict[str, Any] = {
        "machine": about_machine(),
        "model": bundle.name,
        "method": DualSmoothing(bundle).name,
        "sigma": sigma,
        "n": n,
        "tolerance": TOLERANCE,
        "images per round": images,
        "rounds": rounds,
    }
    certificates: dict[str, Found] = {}
    with ExitStack() as stack:
        for kind, budget in budgets(n, sigma).items():
            sessions = {
                name: stack.enter_context(Session.open(method, Settings(budget)))
                for name, method in methods(bundle, sigma)
            }
            some = images if kind != "fixed" else max(1, images // 4)
            found = {name: Contestant(session, some, data) for name, session in sessions.items()}
            for contestant in found.values():
                contestant()
            check(found)
            calls: dict[str, Callable[[], object]] = {k: partial(c) for k, c in found.items()}
            times = interleave(calls, rounds if kind != "fixed" else min(rounds, LONG_ROUNDS))
            check(found)
            certificates[kind] = {name: each.found for name, each in found.items()}
            report[kind] = compared(certificates[kind], times, sigma)
            _print(kind, report[kind])
    report["share of the radii of n votes that precise keeps"] = kept = radii_kept(certificates)
    print("precise keeps", kept, "of the mean radius of n votes")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "dual_cost.json", report)
    print(out / "dual_cost.json")


def _print(kind: str, figures: dict[str, Any]) -> None:
    low, high = figures["time ratio"]["interval_95"]
    print(
        f"{kind}: dual takes {figures['time ratio']['median']:.2f}x ({low:.2f} .. {high:.2f}) the "
        f"time of fixed and {figures['votes ratio']:.2f}x its votes",
        flush=True,
    )
