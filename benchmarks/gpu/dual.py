"""Dual smoothing against a fixed sigma on a device, for every budget; see `__main__.py`."""

from time import perf_counter
from typing import Any

from dualsmooth.benchmarks.gpu.gate import require
from dualsmooth.benchmarks.gpu.items import Turn
from dualsmooth.engine import Budget, Certificate, DualSmoothing, FixedSmoothing, load_bundle
from dualsmooth.engine.data import load_images
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings

SIGMA, RADII = 0.25, (0.25, 0.5)


def compare_dual(turn: Turn) -> dict[str, Any]:
    """Images per second of the bundled digits model under each budget, and ratios of times."""
    tiny = turn.place.tiny
    bundle, images = load_bundle("digits-dual"), load_images("digits").images[: 8 if tiny else 256]
    n, found = 1000 if tiny else 100_000, dict[str, Any]()
    budgets = {
        "fixed": Budget.fixed(n=n),
        "precise": Budget.precise(0.05, n=n),
        "decide": Budget.decide(RADII, n=n),
    }
    for name, budget in budgets.items():
        methods: dict[str, Method] = {
            "dual": DualSmoothing(bundle),
            "fixed sigma": FixedSmoothing(bundle, SIGMA),
        }
        rows = {kind: certified(method, budget, images, turn) for kind, method in methods.items()}
        times = [row["ms_per_image"] for row in rows.values()]
        drawn = [row["draws_per_image"] for row in rows.values()]
        found[name] = rows | {"ratio": {"time": times[0] / times[1], "draws": drawn[0] / drawn[1]}}
        turn.keep(found)
    return found


def certified(method: Method, budget: Budget, images: Any, turn: Turn) -> dict[str, Any]:
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
