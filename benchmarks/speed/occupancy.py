"""How full batches are: ``dualsmooth bench occupancy``.

Rows whose votes entered a certificate, of all rows the networks computed, for every budget of the
bundled dual model on 50 and on 500 digits. Early votes that nothing came to ask for count as
padding does: not at all.
"""

from pathlib import Path
from time import perf_counter
from typing import Any

from dualsmooth.benchmarks.speed.rounds import about_machine
from dualsmooth.engine import Budget, DualSmoothing, load_bundle
from dualsmooth.engine.data import load_images
from dualsmooth.engine.files import write_json
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings

GOALS = {50: 0.9, 500: 0.97}
BUDGETS = (Budget.decide((0.25, 0.5), n=10_000), Budget.precise(n=1000), Budget.fixed(n=500))
"""Few votes each: the more there are, the easier batches are to fill."""


def measure(method: Method, budget: Budget, images: int) -> dict[str, Any]:
    """One run on the first images of the digits."""
    with Session.open(method, Settings(budget)) as session:
        start = perf_counter()
        found = list(session.certify(load_images("digits").images[:images]))
        seconds, occupancy = perf_counter() - start, session.occupancy
        assert occupancy.used == sum(r.count for c in found for r in c.counts)
        return {
            "method": method.name,
            "budget": budget.kind,
            "n": budget.n,
            "images": images,
            "batch": session.batch_size,
            "rows used": occupancy.used,
            "rows run": occupancy.run,
            "share": occupancy.share,
            "goal": GOALS[images],
            "seconds": seconds,
        }


def run(out: Path) -> None:
    """Measure every case, print the table and write occupancy.json."""
    bundle, rows = load_bundle("digits-dual"), []
    for images in GOALS:
        for budget in BUDGETS:
            rows.append(row := measure(DualSmoothing(bundle), budget, images))
            print(
                f"{row['images']:>4} images  {row['budget']:<8}"
                f"{row['share']:.2%} of {row['rows run']:,} rows, {row['seconds']:.1f} s",
                flush=True,
            )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "occupancy.json", {"machine": about_machine(), "rows": rows})
    print(out / "occupancy.json")
