"""Certified runs on a device: CIFAR-10 test images beside published figures (see `cifar.py`), and
dual smoothing beside a fixed sigma for every budget.
"""

from time import monotonic, perf_counter
from typing import Any

from dualsmooth.benchmarks.gpu.gate import require
from dualsmooth.benchmarks.gpu.items import Turn
from dualsmooth.engine import (
    Budget,
    Bundle,
    Certificate,
    DualSmoothing,
    FixedSmoothing,
    load_bundle,
)
from dualsmooth.engine.data import load_images
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runs.summary import rows_of, summarize
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
GROUP, N, N_FIXED = 16, 100_000, 10_000
SIGMA, DECIDED = 0.25, (0.25, 0.5)
PUBLISHED = {
    "Dual RS, fine-tuned (n=1e4)": (70.53, 57.48, 45.27, 34.15, 24.68, 17.84, 12.46, 8.83, 6.65),
    "Dual RS, off the shelf (n=1e4)": (69.34, 55.25, 41.28, 29.01, 19.85, 12.73, 7.62, 4.73, 3.54),
    "Dual RS's classifier, fixed 0.25": (87.99, 77.84, 64.93, 46.78),
    "Dual RS's classifier, fixed 0.5": (76.26, 66.44, 55.69, 45.25, 34.87, 25.76, 15.81),
    "Dual RS's classifier, fixed 1": (54.14, 45.83, 38.38, 31.79, 26.10, 20.70, 16.20, 12.06, 8.60),
}
"""Certified accuracy in percent at RADII on all 10,000 test images (Sun, Mao and Vechev, 2025,
arXiv 2512.01782, the authors' archived output; classifiers are denoised vision transformers)."""

COHEN = {
    "Cohen et al., ResNet-110, fixed 0.25": (60.0, 43.0, 27.0),
    "Cohen et al., ResNet-110, fixed 0.5": (55.0, 41.0, 32.0, 23.0, 15.0, 9.0),
    "Cohen et al., ResNet-110, fixed 1": (39.0, 34.0, 28.0, 22.0, 17.0, 14.0),
}
"""In percent at RADII but the first, on 500 test images, n = 100,000 (arXiv 1902.02918, the
authors' repository)."""


def certify_dual(bundle: Bundle, data: ImageSet, ids: list[int], turn: Turn) -> dict[str, Any]:
    """The dual model with 100,000 votes per stage, beside published figures."""
    budget = Budget.fixed(100, 200 if turn.place.tiny else N)
    found = _certified(DualSmoothing(bundle), budget, data, ids, turn, turn.until)
    published = {
        name: {f"{r:g}": share for r, share in zip(radii, shares, strict=False)}
        for radii, rows in ((RADII, PUBLISHED), (RADII[1:], COHEN))
        for name, shares in rows.items()
    }
    return found | {"published, percent": published}


def certify_fixed(bundle: Bundle, data: ImageSet, ids: list[int], turn: Turn) -> dict[str, Any]:
    """Each expert at its own level with 10,000 votes, on the first images of the file."""
    budget, found = Budget.fixed(100, 200 if turn.place.tiny else N_FIXED), dict[str, Any]()
    for number, sigma in enumerate(bundle.sigmas):
        until = turn.until - turn.left() * (1 - 1 / (len(bundle.sigmas) - number))
        method = FixedSmoothing(bundle, sigma)
        found[f"fixed {sigma:g}"] = _certified(method, budget, data, ids, turn, until)
        turn.keep(found)
    return found


def _certified(
    method: Method, budget: Budget, data: ImageSet, ids: list[int], turn: Turn, until: float
) -> dict[str, Any]:
    """Groups of consecutive images until the time is over; whole groups only.

    Images that abstain are decided sooner than others: leaving off in the middle of a group would
    favour them.
    """
    settings = Settings(budget, seed=1, device=turn.place.device.type, slots=GROUP)
    done: list[Certificate] = []
    with Session.open(method, settings) as session:
        _check_repeats(session, data, ids)
        start, longest = perf_counter(), 0.0
        for first in range(0, len(ids), GROUP):
            if done and monotonic() + longest > until:
                break
            begun = perf_counter()
            part = slice(first, first + GROUP)
            group = session.certify(data.images[part], ids[part], data.labels[part].tolist())
            done += sorted(group, key=lambda c: ids.index(c.image_id))
            longest = max(longest, perf_counter() - begun)
            turn.keep(_figures(method, budget, done, perf_counter() - start, session))
        return _figures(method, budget, done, perf_counter() - start, session)


def _check_repeats(session: Session, data: ImageSet, ids: list[int]) -> None:
    """Two images, twice: the same votes, all of them."""
    runs = [
        sorted((c.image_id, c.counts) for c in session.certify(data.images[:2], ids[:2]))
        for _ in range(2)
    ]
    require("certificates that a rerun changes", float(runs[0] != runs[1]), 0)
    for _, counts in runs[0]:
        require("votes missing", float(sum(r.count - sum(r.votes) for r in counts)), 0)


def _figures(
    method: Method, budget: Budget, done: list[Certificate], seconds: float, session: Session
) -> dict[str, Any]:
    summary = summarize(method.name, rows_of(done), RADII)
    return {
        "method": method.name,
        "sampler": session.sampler.name,
        "images": len(done),
        "n": budget.n,
        "ms_per_image": 1e3 * seconds / len(done),
        "acr": summary.acr,
        "abstained": sum(c.predicted is None for c in done),
        "certified, percent": {
            f"{r:g}": 100 * count / len(done) for r, count in summary.certified.items()
        },
        "radii": ",".join(f"{c.image_id}:{c.label}:{c.predicted}:{c.radius!r}" for c in done),
    }


def compare_dual(turn: Turn) -> dict[str, Any]:
    """Images per second of the bundled digits model under each budget, and ratios of times."""
    tiny = turn.place.tiny
    bundle, images = load_bundle("digits-dual"), load_images("digits").images[: 8 if tiny else 256]
    n, found = 1000 if tiny else 100_000, dict[str, Any]()
    budgets = {
        "fixed": Budget.fixed(n=n),
        "precise": Budget.precise(0.05, n=n),
        "decide": Budget.decide(DECIDED, n=n),
    }
    for name, budget in budgets.items():
        methods: dict[str, Method] = {
            "dual": DualSmoothing(bundle),
            "fixed sigma": FixedSmoothing(bundle, SIGMA),
        }
        rows = {kind: rates(method, budget, images, turn) for kind, method in methods.items()}
        times = [row["ms_per_image"] for row in rows.values()]
        drawn = [row["draws_per_image"] for row in rows.values()]
        found[name] = rows | {"ratio": {"time": times[0] / times[1], "draws": drawn[0] / drawn[1]}}
        turn.keep(found)
    return found


def rates(method: Method, budget: Budget, images: Any, turn: Turn) -> dict[str, Any]:
    """One run over the images, after a check that a rerun gives the same certificates."""
    settings = Settings(budget, device=turn.place.device.type, slots=64)
    with Session.open(method, settings) as session:
        first, second = (_radii(list(session.certify(images[:8]))) for _ in range(2))
        require("certificates that a rerun changes", float(first != second), 0)
        start = perf_counter()
        found = list(session.certify(images))
        taken = perf_counter() - start
        require("certificates missing", abs(len(found) - len(images)), 0)
        draws = sum(c.draws for c in found)
        return {
            "sampler": session.sampler.name,
            "ms_per_image": 1e3 * taken / len(images),
            "images_per_s": len(images) / taken,
            "draws_per_s": draws / taken,
            "draws_per_image": draws / len(images),
            "occupancy": session.occupancy.share,
        }


def _radii(certificates: list[Certificate]) -> list[tuple[int | None, float, int]]:
    return sorted((c.image_id, c.radius, c.draws) for c in certificates)
