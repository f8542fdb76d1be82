"""Votes per second of exported vote graphs against the CPU sampler, interleaved in one process.

    python benchmarks/speed/onnx_route.py [--rounds 15]

Both draw the same votes of the same networks in float32 on one image, noise and counting included,
on the same number of threads and rows per pass; counts are compared first. ``noise fed`` makes the
noise on the host, as for providers without integer operators.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.benchmarks.speed.cpu import CASES, CLASSES, SIGMA, Case
from dualsmooth.benchmarks.speed.rounds import interleave, quartiles, ratio
from dualsmooth.engine import Bundle
from dualsmooth.engine.machine import available_cores, machine
from dualsmooth.engine.samplers.choose import make_sampler
from dualsmooth.engine.samplers.sampler import Sampler, Segment
from dualsmooth.export.deployment import Terms
from dualsmooth.export.sampler import OnnxSampler
from dualsmooth.export.write import export_bundle

VOTES = {"digits": 10_000, "small": 2_000, "resnet20": 400}
ROLE = "classifier"


def samplers(case: Case, folder: Path, threads: int) -> dict[str, Sampler]:
    """The CPU sampler and the ONNX route with noise in the graph and fed to it."""
    network = case.network()
    bundle = Bundle.from_classifier(network, num_classes=CLASSES, input_shape=case.shape)
    deployment = export_bundle(bundle, folder, Terms("fixed", SIGMA))
    cpu = make_sampler(
        {ROLE: network},
        {ROLE: CLASSES},
        case.shape,
        seed=0,
        precision="fp32",
        threads=threads,
        batch_size=deployment.batch_size,
    )
    routes: dict[str, Sampler] = {"cpu sampler": cpu}
    for name, fed in (("onnx", False), ("onnx, noise fed", True)):
        routes[name] = OnnxSampler(deployment, [ROLE], seed=0, feed_noise=fed, threads=threads)
    for route in routes.values():
        route.load(0, case.image)
    return routes


def measure(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Times of the routes on one network, after their counts were found to agree."""
    case, n = CASES[name], VOTES[name]
    with tempfile.TemporaryDirectory() as folder:
        routes = samplers(case, Path(folder) / "deployed", threads)
    segment = Segment(0, 0, SIGMA, 3, 0, n)

    def draw(route: Sampler) -> NDArray[np.int64]:
        votes: NDArray[np.int64] = route.count(ROLE, [segment])[0]
        return votes

    counts = {route: draw(sampler) for route, sampler in routes.items()}
    moved = max(int(np.abs(c - counts["cpu sampler"]).sum()) // 2 for c in counts.values())
    assert moved <= n // 1000, counts
    work: dict[str, Callable[[], object]] = {
        route: partial(draw, sampler) for route, sampler in routes.items()
    }
    seconds = interleave(work, rounds)
    return {
        "votes_moved": moved,
        "votes_per_second": {route: quartiles(times, n) for route, times in seconds.items()},
        "cpu_time_over_onnx": ratio(seconds["cpu sampler"], seconds["onnx"]),
    }


def main() -> None:
    """Measure every network and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=available_cores())
    chosen = parser.parse_args()
    CASES.setdefault("digits", Case("small_convnet", (8, 8, 1), VOTES["digits"]))
    report = {"machine": machine(), "threads": chosen.threads}
    for name in VOTES:
        report[name] = measure(name, chosen.rounds, chosen.threads)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
