"""Speeds beside other loops, and where the time goes; see `__main__.py`.

Every network's backends are checked first; the table times those that passed, and peers with the
same weights. N is 100,000 votes per round, in whole batches so that nobody pays for padding, where
five rounds of it fit into an item's time, else fewer, which the figures say.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dualsmooth.benchmarks.gpu import contest
from dualsmooth.benchmarks.gpu.ceilings import copy_rate, matrix_rate
from dualsmooth.benchmarks.gpu.checks import cifar, machine, resnet50, votes_item
from dualsmooth.benchmarks.gpu.gate import CheckFailed, require
from dualsmooth.benchmarks.gpu.items import Item, Place, Turn
from dualsmooth.benchmarks.gpu.peers import Loop, careful
from dualsmooth.benchmarks.gpu.votes import COPY_BYTES, MATRIX_FLOP, Subject
from dualsmooth.benchmarks.speed import networks as deep

ROUNDS, FITTING = 15, 5
SECONDS = {"ResNet-110": 40.0, "ResNet-50": 50.0, "WRN-28-10": 40.0, "ResNet-18": 25.0}
"""Limit of each network's table."""

SWEEP = (256, 512, 1024, 2048, 4096, 8192, 16384)
TOP = 20
"""Kernels of a profile that are listed."""


def subjects(place: Place) -> list[Subject]:
    """ResNet-110, ResNet-50, WRN-28-10 and ResNet-18, or two tiny stand-ins."""
    if place.tiny:
        few: dict[str, Any] = {"batch": 32, "checked": 150, "exact": 60}
        return [
            cifar(18, place, ("eager", "triton")),
            Subject("tiny network", _tiny, 8, backends=("picked", "eager"), **few),
        ]
    backends = "picked", "tiledstem", "stem", "cudnn"
    return [
        cifar(18, place, ("fused", "onchip", "triton", "cudnn", "eager")),
        resnet50("picked.tiledstem", *backends),
        Subject("WRN-28-10", deep.wrn_28_10, 32, 2048, 20_000, 200, backends),
        Subject("ResNet-18", deep.resnet18_cifar, 32, backends=("picked.tiledstem", *backends)),
    ]


def _tiny() -> torch.nn.Module:
    """With a product for `picked`, and no ReLU behind it, which processors have no call for."""
    body = torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
    return deep.Pooled(torch.nn.Sequential(*body, torch.nn.Conv2d(16, 32, 1)), 32, 10)


def gate(subject: Subject, backend: str) -> str:
    """Name of the item that checks a backend."""
    return f"votes {subject.name} {backend}"


def passed(subject: Subject, turn: Turn) -> list[str]:
    """Backends that may be timed."""
    found = [b for b in subject.backends if turn.passed(gate(subject, b))]
    if not found:
        raise CheckFailed(f"no backend of {subject.name} passed its checks")
    return found


def limits(subject: Subject, turn: Turn) -> dict[str, Any]:
    """Ceilings of this device where they were measured, and votes per round."""
    copied, product = (turn.results.get(f"ceiling: {name}") for name in ("copy", "matrix"))
    return {
        "copy": copied["bytes_per_s"] if copied else COPY_BYTES,
        "matrix": product["flop_per_s"] if product else MATRIX_FLOP,
        "sizes": (64,)
        if turn.place.tiny
        else [n // subject.batch * subject.batch for n in contest.DRAWS],
    }


def table(subject: Subject, compiled: tuple[str, ...], turn: Turn) -> dict[str, Any]:
    """Peers and our backends in turns."""
    place = turn.place
    network = subject.balanced(16 if place.tiny else 64)
    makers, names = contest.peers(subject, network, place.device, compiled), dict[str, str]()

    def ours(backend: str) -> Loop:
        made = subject.sampler(network, backend, stream=place.stream())
        names[backend] = made.name
        return contest.ours(made, len(subject.images))

    for backend in passed(subject, turn):
        makers[f"ours {backend}"] = partial(ours, backend)
    return {"samplers": names} | contest.contest(
        makers, subject, ROUNDS, FITTING, turn.until, turn.keep, **limits(subject, turn)
    )


def autotuned(subject: Subject, turn: Turn) -> dict[str, Any]:
    """Our backends beside a compiler that measures, and freezes weights."""
    place = turn.place
    network = subject.balanced(16 if place.tiny else 64)
    mode = "none" if place.tiny else "autotune"
    makers: dict[str, Callable[[], Loop]] = {
        f"torch.compile {mode}": partial(careful, network, subject, place.device, mode=mode)
    }
    for backend in passed(subject, turn):
        makers[f"ours {backend}"] = partial(_ours, subject, network, backend, place)
    return contest.contest(
        makers, subject, ROUNDS, FITTING, turn.until, turn.keep, **limits(subject, turn)
    )


def _ours(
    subject: Subject, network: torch.nn.Module, backend: str, place: Place, **options: Any
) -> Loop:
    made = subject.sampler(network, backend, stream=place.stream(), **options)
    return contest.ours(made, len(subject.images))


def sweep(subject: Subject, turn: Turn) -> dict[str, Any]:
    """Seconds per 100,000 votes by batch size."""
    place, found = turn.place, dict[str, Any]()
    network = subject.balanced(16 if place.tiny else 64)
    most = 64 if place.tiny else 100_000
    for backend in passed(subject, turn):
        for batch in (8, 16) if place.tiny else SWEEP:
            if turn.left() < 0:
                return found
            loop = _ours(subject, network, backend, place, batch_size=batch)
            draws, seconds = most if place.tiny else most // batch * batch, []
            for number in range(4):
                start = time.perf_counter()
                counts = loop(number, draws)
                seconds.append(time.perf_counter() - start)
                require("votes missing", abs(float(counts.sum()) - draws), 0)
            found[f"{backend} {batch}"] = statistics.median(seconds[1:]) * 1e5 / draws
            turn.keep(found)
    return found


def profile(subject: Subject, turn: Turn) -> dict[str, Any]:
    """Device time by kernel, of every backend, without graphs."""
    from torch.profiler import ProfilerActivity

    place, found = turn.place, dict[str, Any]()
    network = subject.balanced(16 if place.tiny else 64)
    kind = ProfilerActivity.CPU if place.device.type == "cpu" else ProfilerActivity.CUDA
    for backend in passed(subject, turn):
        sampler = subject.sampler(network, backend, stream=place.plain_stream())
        loop, draws = contest.ours(sampler, len(subject.images)), 4 * subject.batch
        loop(0, draws)
        with torch.profiler.profile(activities=[kind]) as seen:
            counts = loop(1, draws)
            place.synchronize()
        require("votes missing", abs(float(counts.sum()) - draws), 0)
        found[backend] = _kernels(seen, place.device.type, draws)
        turn.keep(found)
    return found


def _kernels(seen: Any, device: str, draws: int) -> dict[str, dict[str, float]]:
    """Kernel -> milliseconds per 100,000 draws, share of all, and calls."""
    attribute = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    rows = [(float(getattr(e, attribute)), e.key, e.count) for e in seen.key_averages()]
    total = sum(taken for taken, _, _ in rows)
    require("time without kernels", float(total == 0), 0)
    rows.sort(reverse=True)
    return {
        key[:90]: {"ms_per_100k": us / 1e3 * 1e5 / draws, "share": us / total, "calls": count}
        for us, key, count in rows[:TOP]
    }


def fill(subject: Subject, turn: Turn) -> dict[str, float]:
    """Have a peer compiled, so that its program is on disk when it is timed."""
    start = time.perf_counter()
    loop = careful(subject.balanced(), subject, turn.place.device, mode="compile")
    require("votes missing", abs(float(loop(0, subject.batch).sum()) - subject.batch), 0)
    return {"seconds": time.perf_counter() - start}


def items(place: Place) -> list[Item]:
    """The table of goals, the deepest network first; peers are compiled beside the checks."""
    modes, shared, late = (
        ("none",) if place.tiny else ("compile", "graph"),
        ceilings(),
        list[Item](),
    )
    instead = list[Item]()
    found, checks = [Item("machine", machine, limit=10, beside=True)], list[Item]()
    for subject in subjects(place):
        gates = tuple(gate(subject, backend) for backend in subject.backends)
        checks += [votes_item(subject.name, subject, backend) for backend in subject.backends]
        work, name = partial(fill, subject), f"compiled {subject.name}"
        fills = [Item(name, work, limit=90, beside=True)] if "compile" in modes else []
        found += fills
        uses = (*gates, *(item.name for item in (*shared, *fills)))
        name, limit = f"table {subject.name}", SECONDS.get(subject.name, 40.0)
        late.append(Item(name, partial(table, subject, modes), uses=uses, limit=limit))
        plain = partial(table, subject, ("none",))
        instead.append(Item(f"{name}, plain", plain, uses=uses, unless=name, limit=limit))
    return [*found, *checks, *shared, *late, *instead]


def ceilings() -> list[Item]:
    """What shares of the floor are counted by."""
    return [
        Item(f"ceiling: {n}", w, limit=7) for n, w in (("copy", copy_rate), ("matrix", matrix_rate))
    ]


def rest(place: Place) -> list[Item]:
    """What takes longest and says least, for a loan of its own: a compiler that measures, last."""
    found, late = ceilings(), list[Item]()
    for number, subject in enumerate(subjects(place)):
        gates = tuple(gate(subject, backend) for backend in subject.backends)
        found = [votes_item(subject.name, subject, b) for b in subject.backends] + found
        late.append(split(subject))
        if number == 0:
            late.append(Item(f"batches {subject.name}", partial(sweep, subject), uses=gates))
        uses = (*gates, *(item.name for item in ceilings()))
        work = partial(autotuned, subject)
        late.append(Item(f"autotuned {subject.name}", work, uses=uses, limit=120))
    return found + sorted(late, key=lambda item: item.name.startswith("autotuned"))


def split(subject: Subject) -> Item:
    """Time by kernel."""
    gates = tuple(gate(subject, backend) for backend in subject.backends)
    return Item(f"profile {subject.name}", partial(profile, subject), uses=gates, limit=20)
