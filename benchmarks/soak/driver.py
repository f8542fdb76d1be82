"""What everything but the network costs: ``python benchmarks/soak/driver.py``.

* The driver: seconds per certificate with a sampler that answers at once, in one process.
* The loop of a device: the same with `CudaSampler` on a device that only counts rows, so with the
  tables of every row and their submission.
* The run log: certificates per second on disk, one by one and in groups.
* The conductor: messages per second from 1,000 imitated workers, through leases and the run log.
* ``--soak VOTES``: that many votes of a fake network, with memory and throughput along the way; the
  throughput is per second of the processor, so that other work on the machine does not count.
"""

import argparse
import json
import resource
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.cluster.conductor import Certified, Conductor, Done, Event, Ready
from dualsmooth.engine.cluster.leases import Leases, lease_size
from dualsmooth.engine.files import write_json
from dualsmooth.engine.machine import machine
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.commit import GroupCommit
from dualsmooth.engine.runs.log import RunLog
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.samplers.cuda import CudaSampler
from dualsmooth.engine.samplers.null import FakeSampler, HostStream
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.settings import Settings

WORKERS = 1000


class Instant(FakeSampler):
    """Answers at once: a fixed share of the votes for the image's class."""

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        votes = np.zeros((len(segments), self._outputs[model] + 1), np.int64)
        for row, segment in zip(votes, segments, strict=True):
            row[0] = segment.count - segment.count // 50
            row[1] = segment.count // 50
        return votes


def session(n: int, make: type[FakeSampler]) -> Session:
    """Dual smoothing of digits with the bundled networks replaced by a fake sampler."""
    settings = Settings(Budget.fixed(100, n), device="cpu", precision="fp32")
    return Session.open(DualSmoothing(load_bundle("digits-dual")), settings, make)


def certify(images: int, n: int) -> tuple[list[Certificate], dict[str, float]]:
    """Certificates of blank images; seconds on the clock and of the processor per certificate."""
    pixels = np.zeros((images, 8, 8, 1), np.uint8)
    with session(n, Instant) as fake:
        start, busy = perf_counter(), process_time()
        certificates = list(fake.certify(pixels, list(range(images)), [0] * images))
        seconds = {"clock": (perf_counter() - start) / images}
        return certificates, seconds | {"processor": (process_time() - busy) / images}


class Counting(HostStream):
    """A device on which every row votes for class 0, whatever the network."""

    def capture(self, work: Any) -> Callable[[], None]:
        """Count the rows of each segment, in place of a pass."""
        rows, counts = (part for part in work.args[-2:])
        segments, votes = rows.segment.numpy(), counts.numpy()

        def run() -> None:
            found = np.bincount(segments + 1, minlength=2)[1:]
            votes[: len(found), 0] += found

        return run


def device_loop(images: int, n: int) -> dict[str, float]:
    """Seconds of the processor per certificate, and votes per such second."""

    def make(*networks: Any, threads: object, device: str, backend: str, **options: Any) -> Any:
        return CudaSampler(*networks, backend="eager", stream=Counting(), **options)

    settings = Settings(
        Budget.fixed(100, n), device="cpu", precision="fp32", slots=64, batch_size=4096
    )
    pixels = np.zeros((images, 8, 8, 1), np.uint8)
    with Session.open(DualSmoothing(load_bundle("digits-dual")), settings, make) as counting:
        list(counting.certify(pixels[:64]))
        busy = process_time()
        drawn = sum(certificate.draws for certificate in counting.certify(pixels))
        taken = process_time() - busy
    return {"seconds_per_certificate": taken / images, "votes_per_second": drawn / taken}


def log_rates(certificates: list[Certificate], folder: Path) -> dict[str, float]:
    """Certificates per second that reach the disk."""
    few = certificates[:200]
    log = RunLog(folder / "single", {})
    start = perf_counter()
    for certificate in few:
        log.append(certificate)
    single = len(few) / (perf_counter() - start)
    log.close()
    log = RunLog(folder / "groups", {})
    start = perf_counter()
    with GroupCommit(log, lambda _: None) as commit:
        for certificate in certificates:
            commit.put(certificate)
    groups = len(certificates) / (perf_counter() - start)
    log.close()
    return {"one_by_one": single, "in_groups": groups}


class Crowd:
    """A pool of imitated workers that answer each lease at once."""

    def __init__(self, lines: list[str], workers: int) -> None:
        self._lines = lines
        self._queue: deque[Event] = deque(
            Ready(worker, {"sampler": 1}) for worker in range(workers)
        )

    def give(self, worker: int, lease: int, image_ids: list[int]) -> None:
        self._queue.extend(Certified(worker, lease, self._lines[i]) for i in image_ids)
        self._queue.append(Done(worker, lease, 1, 1))

    def events(self) -> list[Event]:
        return [self._queue.popleft() for _ in range(min(64, len(self._queue)))]

    def close(self) -> None:
        pass


def conductor_rate(certificates: list[Certificate], folder: Path) -> dict[str, float]:
    """Certificates per second through leases, checks and the run log."""
    crowd = Crowd([certificate.to_json() for certificate in certificates], WORKERS)
    conductor, log = Conductor(crowd), RunLog(folder / "crowd", {})
    conductor.facts()
    start, busy = perf_counter(), process_time()
    size = lease_size(len(certificates), WORKERS, 16)
    with GroupCommit(log, lambda _: None) as commit:
        for certificate in conductor.run(Leases(range(len(certificates)), size)):
            commit.put(certificate)
    clock, processor = perf_counter() - start, process_time() - busy
    log.close()
    return {
        "workers": WORKERS,
        "lease_size": size,
        "certificates_per_second": len(certificates) / clock,
        "certificates_per_processor_second": len(certificates) / processor,
    }


def soak(votes: int) -> dict[str, Any]:
    """Memory and throughput, looked at ten times while a fake network casts votes."""
    n, done, part = 10_000, 0, 0
    seen: list[dict[str, float]] = []
    with session(n, FakeSampler) as fake:
        start, last = process_time(), 0
        while done < votes:
            pixels, ids = np.zeros((64, 8, 8, 1), np.uint8), list(range(part, part + 64))
            done += sum(c.draws for c in fake.certify(pixels, ids, [0] * 64))
            part += 64
            if done * 10 // votes > last * 10 // votes:
                rate = (done - last) / (process_time() - start)
                seen.append({"votes": done, "per_second": round(rate), "megabytes": memory()})
                print(
                    f"{done:>13,} votes {rate:>12,.0f} per processor second "
                    f"{memory():>7.1f} MB resident",
                    flush=True,
                )
                start, last = process_time(), done
    memories, rates = ([row[key] for row in seen] for key in ("megabytes", "per_second"))
    return {
        "votes": done,
        "images": part,
        "growth_megabytes": memories[-1] - memories[0],
        "rate_last_to_first": rates[-1] / rates[0],
        "seen": seen,
        "machine": machine(),
    }


def memory() -> float:
    """Resident memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    else:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1024


def overhead(images: int) -> dict[str, Any]:
    """What a certificate costs beside its votes, and how many the log and conductor take."""
    certificates, seconds = certify(images, 10_000)
    certificates = [replace(certificate, seconds=0.0) for certificate in certificates]
    result: dict[str, Any] = {"machine": machine(), "seconds_per_certificate": seconds}
    result["device_loop"] = {n: device_loop(200, n) for n in (10_000, 100_000)}
    result["bytes_per_certificate"] = len(certificates[0].to_json())
    with tempfile.TemporaryDirectory(dir=".") as folder:
        result["log_certificates_per_second"] = log_rates(certificates, Path(folder))
        result["conductor"] = conductor_rate(certificates, Path(folder))
    return result


def main() -> None:
    """Measure or soak; print and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--soak", type=int, default=0, metavar="VOTES")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    result = soak(options.soak) if options.soak else overhead(options.images)
    print(json.dumps(result, indent=1))
    if options.out is not None:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
