"""Fair timing in one process: contestants interleaved, medians and intervals of their ratios."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np

from dualsmooth.engine.machine import installed_version, machine
from dualsmooth.engine.terminal.progress import passing_bar

Times = dict[str, list[float]]
"""Seconds of each round, by contestant."""


def interleave(contestants: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Time contestants in random order, once per round, after an untimed round."""
    rng, seconds = np.random.default_rng(0), {name: list[float]() for name in contestants}
    for round_ in passing_bar(iterable=range(rounds + 1), desc="timing", unit="round"):
        for name in rng.permutation(list(contestants)):
            start = perf_counter()
            contestants[name]()
            if round_:
                seconds[name].append(perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> dict[str, Any]:
    """Median of the per-round ratios slow / fast, its 95 % bootstrap interval, and the minima's.

    On a machine shared with others the ratio of the smallest times is the steadier figure.
    """
    ratios = np.array(slow) / np.array(fast)
    draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return {
        "median": round(float(np.median(ratios)), 3),
        "interval_95": [round(float(low), 3), round(float(high), 3)],
        "of_minima": round(min(slow) / min(fast), 3),
        "rounds": len(ratios),
    }


def best(seconds: Times, names: list[str]) -> str:
    """The contestant with the smallest median time."""
    return min(names, key=lambda name: float(np.median(seconds[name])))


def quartiles(times: list[float], work: int) -> dict[str, Any]:
    """Median and interquartile range, as work per second."""
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    return {"per_second": round(work / middle), "iqr": [round(work / high), round(work / low)]}


def share(times: list[float], work: int, peak_times: list[float], peak_work: int) -> float:
    """Median over the rounds of a contestant's rate as a share of the peak's in the same round."""
    rates = work / np.array(times) / (peak_work / np.array(peak_times))
    return round(float(np.median(rates)), 4)


def about_machine() -> dict[str, Any]:
    """What the figures were measured on, with the versions of the contestants."""
    packages = ("torch", "numpy", "onnxruntime", "openvino", "adversarial-robustness-toolbox")
    return machine() | {"versions": {name: installed_version(name) for name in packages}}
