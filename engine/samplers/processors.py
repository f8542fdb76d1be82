"""Precision and backend on processors: measured once per network where its shape leaves a doubt.

float32 by our own path comes first: what follows it in the order of preference must be faster by
more than a timing errs. bfloat16 is tried where the processor multiplies it, OpenVINO on large
images where it is installed. What is chosen decides votes, so it is recorded and kept by a run.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from dualsmooth.engine.backends import AUTO, LOOPS, OPENVINO, Tried
from dualsmooth.engine.errors import reason_of
from dualsmooth.engine.machine import installed_version, machine
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import UNDIGESTED, Network
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.samplers.calibrate import fastest
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.fusion.bf16 import multiplies_bf16
from dualsmooth.engine.samplers.fusion.fold import Made
from dualsmooth.engine.samplers.fusion.onednn import is_whole
from dualsmooth.engine.samplers.remembered import keep_tried, read_tried
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import step

LARGE = 128 * 128
"""Pixels of an image from which on OpenVINO may be the faster one."""

MUCH = 0.9
"""Share of the time of a preferred choice that another must stay below."""

ROUNDS, LONG = 3, 4.0
"""Rounds that count, but one alone where batches have taken so many seconds by then."""

OURS, LIBRARY = f"{LOOPS} fp32", f"{OPENVINO} fp32"
WHOLE = "cannot be the faster one: convolutions and poolings are all of the network"

_MADE: WeakKeyDictionary[Network, Made] = WeakKeyDictionary()
"""What trials made for what they chose, until a sampler takes it."""


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


def taken(bundle: Bundle, settings: Settings) -> dict[str, Made]:
    """What a trial has made of the networks of a bundle for such batches, once."""
    rows = settings.padded_batch(bundle.input_shape)
    found = {role: _MADE.pop(network, None) for role, network in bundle.networks.items()}
    return {r: made if made and made.rows == rows else Made(rows) for r, made in found.items()}


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
    """Seconds of a batch of every choice for every network, or why it was refused or not timed."""
    batch, about = settings.padded_batch(bundle.input_shape), machine()
    facts: dict[str, Any] = {name: about[name] for name in ("processor", "instructions")}
    packages = ("dualsmooth", "torch", OPENVINO)
    facts |= {"versions": [installed_version(package) for package in packages], "names": names}
    facts |= {"shape": bundle.input_shape, "batch": batch, "noise": settings.noise}
    kept, every, keys = read_tried(), dict[str, Tried](), dict[str, str]()
    for role, network in bundle.networks.items():
        what = [network.architecture, dict(network.kwargs), network.sha256]
        keys[role] = digest_of(facts | {"network": what})
        every[role] = kept.get(keys[role], {})
    known = all(tried and tried.keys() <= set(names) for tried in every.values())
    if known and preferred(names, every) == names[0]:
        return every
    every = _contest(settings, bundle, names, every if known else {})
    digested = [r for r, n in bundle.networks.items() if UNDIGESTED not in n.kwargs]
    fresh = {keys[role]: every[role] for role in digested}
    keep_tried(kept, {key: tried for key, tried in fresh.items() if tried != kept.get(key)})
    return every


def _contest(
    settings: Settings, bundle: Bundle, names: list[str], kept: dict[str, Tried]
) -> dict[str, Tried]:
    """What was tried; of what was timed, the fastest is proved, or refused and the next one is.

    What is kept of an earlier start is not timed again.
    """
    trials = {role: _Trial(settings, bundle, role) for role in bundle.networks}
    every = kept or {role: trial.timed(names) for role, trial in trials.items()}
    best = preferred(names, every)
    while all(isinstance(tried.get(best), float) for tried in every.values()):
        faults = {role: fault for role, trial in trials.items() if (fault := trial.fault(best))}
        if not faults:
            break
        if kept:
            role, fault = next(iter(faults.items()))
            warnings.warn(f"{best}, chosen at an earlier start, is dropped: {fault}", stacklevel=2)
        every |= {role: {**every[role], best: fault} for role, fault in faults.items()}
        best = preferred(names, every)
    for role, trial in trials.items():
        trial.made.keep(best)
        _MADE[bundle.networks[role]] = trial.made
    return every


class _Trial:
    """One network on trial; what samplers of it are made of is made once."""

    def __init__(self, settings: Settings, bundle: Bundle, role: str) -> None:
        self._role, self.made = role, Made(settings.padded_batch(bundle.input_shape))
        self._kinds = dict[str, type[torch.nn.Module]]()
        ways: dict[str, Any] = {"noise": settings.noise, "threads": settings.threads, "seed": 0}
        ways |= {"batch_size": self.made.rows, "made": {role: self.made}}
        parts = {role: bundle.build(role)}, {role: bundle.outputs(role)}, bundle.input_shape
        self._sampler: Callable[..., CpuSampler] = partial(CpuSampler, *parts, **ways)

    def timed(self, names: list[str]) -> Tried:
        """Seconds of a batch on one thread, where several can be the fastest; why others cannot."""
        refused, samplers = dict[str, float | str](), dict[str, CpuSampler]()
        for name in names:
            if name == LIBRARY and OURS in samplers and is_whole(samplers[OURS].form(self._role)):
                refused[name] = WHOLE
                continue
            try:
                samplers[name] = self._sampler(**_named(name), proved=False)
            except Exception as error:  # libraries fail in many ways, and the next may not
                refused[name] = reason_of(error)
        try:
            for name, sampler in samplers.items():
                sampler.load(0, np.zeros(sampler.shape, np.float32))
                self._kinds[name] = type(sampler.form(self._role))
            passes = {name: partial(self._vote, sampler) for name, sampler in samplers.items()}
            with step(f"{self._role}: timing {' and '.join(passes)}"):
                times = fastest(passes, _seconds, ROUNDS, LONG) if len(passes) > 1 else {}
            return times | refused
        finally:
            for sampler in samplers.values():
                sampler.close()

    def fault(self, name: str) -> str:
        """What is wrong with a choice, made and proved as votes need it; empty if nothing is."""
        try:
            with self._sampler(**_named(name)) as sampler:
                form = sampler.form(self._role)
                alike = type(form) is self._kinds.get(name, type(form))
        except Exception as error:
            return reason_of(error)
        return "" if alike else "what was timed is not what was proved"

    def _vote(self, sampler: CpuSampler) -> None:
        sampler.count(self._role, [Segment(0, 0, 0.25, 3, 0, self.made.rows)])


def _named(name: str) -> dict[str, str]:
    return dict(zip(("backend", "precision"), name.split(), strict=True))


def _seconds(run: Callable[[], None]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start
