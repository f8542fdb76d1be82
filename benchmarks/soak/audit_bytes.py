"""Does the audit find every changed byte? ``python benchmarks/soak/audit_bytes.py --trials 10000``.

Single bytes of a finished run's log are changed at random, and the run is audited each time. Honest
runs with other seeds must raise no alarm. The log of a run is audited line by line, so a small run
shows what a large one would.
"""

import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from dualsmooth.benchmarks.soak.fuzz.seeds import SETTINGS, make_bundle, make_run
from dualsmooth.benchmarks.soak.fuzz.tell import arguments, tell
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.sources.folder import read_bundle
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import LOG
from dualsmooth.engine.samplers.null import FakeSampler


def meaning(log: bytes) -> list[object] | None:
    """The certificates of a log as JSON values; None if it is not JSON."""
    try:
        return [json.loads(line) for line in log.decode().split("\n") if line]
    except ValueError:
        return None


def changed_bytes(run: Path, trials: int, seed: int) -> dict[str, int]:
    """How many changes were tried and missed, and how many of them change what the log says."""
    path = run / LOG
    honest, rng = path.read_bytes(), random.Random(seed)
    said, found = meaning(honest), {"tried": trials, "changing_meaning": 0, "missed": 0}
    for _ in range(trials):
        altered = bytearray(honest)
        altered[rng.randrange(len(honest))] ^= rng.randrange(1, 256)
        path.write_bytes(altered)
        found["changing_meaning"] += meaning(bytes(altered)) != said
        found["missed"] += not audit(run).findings
    path.write_bytes(honest)
    return found


def honest_runs(place: Path, bundle: Path, count: int) -> dict[str, int]:
    """Alarms on honest runs of two methods with other seeds."""
    read, data, alarms = read_bundle(bundle), load_images("digits"), 0
    for seed in range(count):
        method = DualSmoothing(read) if seed % 2 else FixedSmoothing(read, 0.25)
        settings = replace(SETTINGS, seed=seed)
        folder = place / f"honest-{seed}"
        certify_run(method, data, list(range(4)), settings, folder, make=FakeSampler)
        alarms += bool(audit(folder, data).findings)
    return {"runs": count, "alarms": alarms}


def main() -> None:
    """Try, print and write; exit code 1 if a change was missed or an honest run was accused."""
    parser = arguments(__doc__, trials=10_000, honest=100)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_bundle(place / "bundle")
        make_run(place / "run", place / "bundle")
        honest = honest_runs(place, place / "bundle", options.honest)
        changed = changed_bytes(place / "run", options.trials, options.seed)
    result = {"changed_bytes": changed, "honest_runs": honest}
    print(json.dumps(result, indent=1))
    tell(result, options.out, start)
    raise SystemExit(1 if changed["missed"] or honest["alarms"] else 0)


if __name__ == "__main__":
    main()
