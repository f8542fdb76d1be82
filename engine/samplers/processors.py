"""Precision and backend on processors: measured once per network where its shape leaves a doubt.

float32 by our own path comes first: what follows it in the order of preference must be faster by
more than a timing errs. bfloat16 is tried where the processor multiplies it, OpenVINO on large
images where it is installed. What is chosen decides votes, so it is recorded and kept by a run.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from time import perf_counter
from typing import Any

import numpy as np

from dualsmooth.engine.backends import AUTO, LOOPS, OPENVINO, Tried
from dualsmooth.engine.errors import reason_of
from dualsmooth.engine.machine import installed_version, machine
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import UNDIGESTED
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.samplers.calibrate import fastest
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.fusion.bf16 import multiplies_bf16
from dualsmooth.engine.samplers.remembered import keep_tried, read_tried
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.settings import Settings

LARGE = 128 * 128
"""Pixels of an image from which on OpenVINO may be the faster one."""

MUCH = 0.9
"""Share of the time of a preferred choice that another must stay below."""

ROUNDS = 3


def chosen(settings: Settings, bundle: Bundle) -> Settings:
    """Settings on a processor, with precision and backend as ``auto`` found them, and all it tried.

    Settings that were chosen before keep what was tried then.
    """
    height, width, _ = bundle.input_shape
    precisions, backends = [settings.precision], [settings.backend]
    if settings.precision == AUTO:
        precisions = ["fp32", "bf16"] if multiplies_bf16() else ["fp32"]
    if settings.backend == AUTO:
        large = height * width >= LARGE and installed_version(OPENVINO) is not None
        backends = [LOOPS, OPENVINO] if large else [LOOPS]
    names = [f"{backend} {precision}" for backend, precision in product(backends, precisions)]
    every = _tried(settings, bundle, names) if len(names) > 1 else settings.tried
    backend, precision = preferred(names, every).split()
    return dataclasses.replace(settings, backend=backend, precision=precision, tried=every)


def preferred(names: list[str], every: Mapping[str, Tried]) -> str:
    """The first of some choices, or a later one that all networks together are much faster by."""
    best, least = names[0], float("inf")
    for name in names:
        times = [tried.get(name, "") for tried in every.values()]
        seconds = [time for time in times if isinstance(time, float)]
        if times and len(seconds) == len(times) and sum(seconds) < MUCH * least:
            best, least = name, sum(seconds)
    return best


def _tried(settings: Settings, bundle: Bundle, names: list[str]) -> dict[str, Tried]:
    """Seconds of a batch, or why it was refused, of every choice for every network."""
    batch, about = settings.padded_batch(bundle.input_shape), machine()
    facts: dict[str, Any] = {name: about[name] for name in ("processor", "instructions")}
    packages = ("dualsmooth", "torch", OPENVINO)
    facts |= {"versions": [installed_version(package) for package in packages], "names": names}
    facts |= {"shape": bundle.input_shape, "batch": batch, "noise": settings.noise}
    kept, every, fresh = read_tried(), dict[str, Tried](), dict[str, Tried]()
    for role, network in bundle.networks.items():
        what = [network.architecture, dict(network.kwargs), network.sha256]
        key = digest_of(facts | {"network": what})
        every[role] = kept.get(key, {})
        if set(every[role]) != set(names):
            every[role] = _timed(settings, bundle, role, names)
            if UNDIGESTED not in network.kwargs:
                fresh[key] = every[role]
    keep_tried(kept, fresh)
    return every


def _timed(settings: Settings, bundle: Bundle, role: str, names: list[str]) -> Tried:
    network, outputs, shape = bundle.build(role), bundle.outputs(role), bundle.input_shape
    batch = settings.padded_batch(shape)
    refused, samplers = dict[str, float | str](), dict[str, CpuSampler]()
    make = partial(CpuSampler, {role: network}, {role: outputs}, shape, seed=0, threads=1)
    for name in names:
        rest: dict[str, Any] = dict(zip(("backend", "precision"), name.split(), strict=True))
        try:
            samplers[name] = make(batch_size=batch, noise=settings.noise, **rest)
        except Exception as error:  # libraries fail in many ways, and the next may not
            refused[name] = reason_of(error)

    def vote(sampler: CpuSampler) -> None:
        sampler.count(role, [Segment(0, 0, 0.25, 3, 0, batch)])

    def seconds(run: Callable[[], None]) -> float:
        start = perf_counter()
        run()
        return perf_counter() - start

    try:
        for sampler in samplers.values():
            sampler.load(0, np.zeros(shape, np.float32))
        passes = {name: partial(vote, sampler) for name, sampler in samplers.items()}
        return fastest(passes, seconds, ROUNDS) | refused
    finally:
        for sampler in samplers.values():
            sampler.close()
