"""The suites of ``dualsmooth bench``."""

from pathlib import Path

from dualsmooth.benchmarks.speed import cpu, dual_cost, occupancy, scaling, start
from dualsmooth.engine.checks import one_of, positive_integer
from dualsmooth.engine.files import check_own
from dualsmooth.engine.models.operating_point import at_point
from dualsmooth.engine.models.sources.load import load_bundle

ROUNDS = {"cpu": 15, "dual": 7, "occupancy": 1, "scaling": 6, "start": 5}
ABOUT = {
    "cpu": "votes per second, ours and every installed peer's, a table after each network",
    "dual": "what dual smoothing costs beside a fixed sigma, a table after each budget",
    "occupancy": "how full batches are, a line per case",
    "scaling": "cost against n, images, levels, classes and size, in processes of their own",
    "start": "time to the first certificate, in new processes",
}
IMAGES, N = 64, 10_000


def run_suite(
    suite: str,
    rounds: int | None,
    out: Path,
    *,
    networks: str | None = None,
    threads: int | None = None,
    bundle: str = "digits-dual",
    data: str = "digits",
    prefer: str | None = None,
) -> None:
    """Run one suite and write its JSON into a folder."""
    one_of("suite", suite, tuple(ROUNDS))
    times = positive_integer("rounds", ROUNDS[suite] if rounds is None else rounds)
    check_own(out, *(f"{name}*.json" for name in ROUNDS))
    print(f"{suite}: {ABOUT[suite]}; files into {out}; --rounds sets how long it takes", flush=True)
    if suite == "cpu":
        cpu.run(times, tuple(networks.split(",")) if networks else cpu.DEFAULT, out, threads)
    elif suite == "dual":
        model = load_bundle(bundle)
        model = model if prefer is None else at_point(model, prefer)
        dual_cost.run(times, IMAGES, N, out, model, data)
    elif suite == "occupancy":
        occupancy.run(out)
    elif suite == "start":
        start.run(times, out)
    else:
        scaling.run(times, out)
