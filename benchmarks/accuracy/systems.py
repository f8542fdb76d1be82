"""Certified accuracy of every system on one data set, and each one's share of the oracle.

    python benchmarks/accuracy/systems.py BUNDLE --data SPEC [--other BUNDLE ...] [--train RECIPE]
        [--runner-up] [--skip 20] [--n 10000] [--runs DIR] [--out FILE]

Systems are every fixed sigma of the bundle, dual with the ordered selector and interval routing,
dual with the plurality rule, and the cascade. `--other` adds the routed ones of further bundles:
one whose selector was trained as published, or those of the recipes `insta` and `variational`,
whose certificate is that of dual. `--train` first makes BUNDLE with that recipe on the training
split of the data. `--runner-up` bounds the classifiers' strongest rival too, except in the cascade.

A selector with operating points is at the one its bundle prefers; `dualsmooth frontier` has all.
The oracle takes, for every image, the largest radius that the fixed runs certify correctly. It
looks at the label and at every level's result, and its sigma may change anywhere in the ball, so it
is an upper bound for routing over these classifiers and not a certificate.

Run folders resume: an interrupted command goes on where it was. Radii are strict (R > r).
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dualsmooth.engine import (
    Budget,
    CascadeSmoothing,
    Certificate,
    DualSmoothing,
    FixedSmoothing,
    load_bundle,
)
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import chosen_ids, load_images
from dualsmooth.engine.files import write_json
from dualsmooth.engine.machine import machine
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.frontier import ORACLE, RADII, oracle
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.summary import Summary, rows_of, summarize
from dualsmooth.engine.settings import Settings

WIDTH = 36

SYSTEMS: tuple[tuple[str, Callable[[Bundle, bool], Method]], ...] = (
    ("dual (median, interval)", lambda bundle, rival: DualSmoothing(bundle, runner_up=rival)),
    ("dual (plurality)", lambda bundle, rival: DualSmoothing(bundle, "plurality", runner_up=rival)),
    ("cascade (p0 0.5)", lambda bundle, _: CascadeSmoothing(bundle)),
)
"""Routed systems of a bundle with a selector, with or without the runner-up bound."""


def runs_of(
    bundle: Bundle,
    methods: Mapping[str, Method],
    *,
    data: ImageSet,
    ids: list[int],
    settings: Settings,
    runs: Path,
) -> list[list[Certificate]]:
    """Certificates of each method; votes that other runs drew are read again."""
    found = []
    for name, method in methods.items():
        folder = runs / f"{bundle.name}-{name}"
        drawn = drawn_for(bundle, runs, folder)
        certify_run(method, data, ids, settings, folder, resume=True, reuse=drawn)
        found.append(read_log(folder))
    return found


def drawn_for(bundle: Bundle, runs: Path, folder: Path) -> list[Path]:
    """Other runs of a bundle, not those of bundles whose names only begin alike."""
    found = {path for kind in ("fixed", "routed") for path in runs.glob(f"{bundle.name}-{kind}-*")}
    return sorted(found - {folder})


def what_binds(
    routed: Sequence[Certificate], fixed: dict[float, list[Certificate]]
) -> dict[str, float]:
    """Split what a routed system loses to the oracle, in mean radius over all images.

    ``level``: the routed sigma's classifier certifies less than the best one. ``selector``: the
    classifier of the routed sigma certifies more than the routed system claims, because the
    selector's radius (or the split of alpha, or an earlier stage of a cascade) allows no more.
    """
    lost = {"level": 0.0, "selector": 0.0}
    for number, certificate in enumerate(routed):
        radii = {s: _useful(same[number]) for s, same in fixed.items()}
        reached = radii[certificate.sigma] if certificate.sigma is not None else 0.0
        lost["level"] += max(radii.values()) - reached
        lost["selector"] += reached - _useful(certificate)
    return {kind: total / max(1, len(routed)) for kind, total in lost.items()}


def _useful(certificate: Certificate) -> float:
    return certificate.radius if certificate.correct else 0.0


def compare(summaries: dict[str, Summary]) -> dict[str, dict[str, Any]]:
    """What each system keeps of the oracle, and how it stands to the best fixed sigma.

    The best fixed sigma is the one with the largest ACR on these very images; radii it certifies
    nothing at are left out of that comparison, and radii the oracle certifies nothing at of both.
    """
    top = summaries[ORACLE]
    fixed = [s for name, s in summaries.items() if name.startswith("fixed")]
    best = max(fixed, key=lambda s: s.acr)
    result = {}
    for name, s in summaries.items():
        shares = {r: s.accuracy(r) / top.accuracy(r) for r in RADII if top.certified[r]}
        gaps = {r: 100 * (s.accuracy(r) - best.accuracy(r)) for r in RADII if best.certified[r]}
        result[name] = {
            **s.to_dict(),
            "share_of_oracle": {f"{r:g}": share for r, share in shares.items()},
            "smallest_share_of_oracle": min(shares.values(), default=1.0),
            "acr_share_of_oracle": s.acr / top.acr if top.acr else 1.0,
            "points_above_best_fixed": {f"{r:g}": gap for r, gap in gaps.items()},
        }
    return result


def table(summaries: dict[str, Summary], compared: dict[str, dict[str, Any]]) -> str:
    """Certified accuracy in %, ACR, and below each routed system its shares of the oracle."""
    radii = [r for r in RADII if summaries[ORACLE].certified[r]]
    lines = [f"{'radius >':<{WIDTH}}" + "".join(f"{r:>7.2f}" for r in radii) + f"{'ACR':>8}"]
    for name, s in summaries.items():
        cells = "".join(f"{100 * s.accuracy(r):>7.1f}" for r in radii)
        lines.append(f"{name:<{WIDTH}}{cells}{s.acr:>8.3f}")
    lines += ["", "share of the oracle, %"]
    for name, values in compared.items():
        shares = [100 * values["share_of_oracle"][f"{r:g}"] for r in radii]
        cells = "".join(f"{share:>7.1f}" for share in shares)
        lines.append(f"{name:<{WIDTH}}{cells}{100 * values['acr_share_of_oracle']:>8.1f}")
    return "\n".join(lines)


def measure(
    bundle: Bundle,
    others: Sequence[Bundle],
    data: ImageSet,
    ids: list[int],
    settings: Settings,
    runs: Path,
    runner_up: bool = False,
) -> tuple[dict[str, Summary], dict[str, dict[str, float]]]:
    """Summaries of every system and of the oracle, and what binds each routed system."""
    certified = partial(runs_of, data=data, ids=ids, settings=settings, runs=runs)
    levels = {f"fixed-{s:g}": FixedSmoothing(bundle, s, runner_up) for s in bundle.sigmas}
    fixed = dict(zip(bundle.sigmas, certified(bundle, levels), strict=True))
    rows = {f"fixed {sigma:g}": rows_of(found) for sigma, found in fixed.items()}
    rows[ORACLE] = oracle(list(rows.values()))
    lost = {}
    for routed in (bundle, *others):
        if SELECTOR not in routed.networks:
            continue
        mark = "" if routed is bundle else f", {routed.name}"
        systems = {f"routed-{i}": make(routed, runner_up) for i, (_, make) in enumerate(SYSTEMS)}
        for (name, _), found in zip(SYSTEMS, certified(routed, systems), strict=True):
            marked = name.replace(")", mark + ")")
            rows[marked] = rows_of(found)
            if routed is bundle:
                lost[marked] = what_binds(found, fixed)
    return {name: summarize(name, value, RADII) for name, value in rows.items()}, lost


def parsed() -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--data", required=True)
    told = "its routed systems are added; may be given again"
    parser.add_argument("--other", action="append", default=[], metavar="BUNDLE", help=told)
    parser.add_argument("--runner-up", action="store_true")
    parser.add_argument("--train", help="recipe that makes BUNDLE first, if it is not there")
    parser.add_argument("--train-max", type=int, help="train on the first images only")
    parser.add_argument("--skip", type=int, default=20)
    parser.add_argument("--n0", type=int, default=100)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Train if asked, certify, print the table and write it as JSON."""
    options = parsed()
    if options.train and not Path(options.bundle).exists():
        from dualsmooth.engine.train.run import train

        most = options.train_max
        train(options.train, options.data, options.bundle, max_images=most, resume=True)
    bundle = load_bundle(options.bundle)
    others = [load_bundle(name) for name in options.other]
    data = load_images(options.data)
    ids = chosen_ids(data, options.skip, None)
    settings = Settings(Budget.fixed(options.n0, options.n), precision=options.precision)
    summaries, lost = measure(bundle, others, data, ids, settings, options.runs, options.runner_up)
    compared = compare(summaries)
    print(table(summaries, compared))
    for name, parts in lost.items():
        level, selector = parts["level"], parts["selector"]
        print(
            f"{name}: mean radius lost to the oracle by the level {level:.3f}, "
            f"by the selector's radius {selector:.3f}"
        )
    if options.out:
        asked = ("skip", "n0", "n", "precision", "runner_up")
        record = {
            "data": data.name,
            "images": len(ids),
            **{name: getattr(options, name) for name in asked},
            **{"alpha": settings.alpha, "seed": settings.seed},
            **{"bundle": bundle.name, "digest": bundle.digest},
            "others": {other.name: other.digest for other in others},
            "systems": compared,
            "mean_radius_lost": lost,
            "machine": machine(),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, record)


if __name__ == "__main__":
    main()
