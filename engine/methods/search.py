"""Insta-RS's search for the noise level of one input, and a cheaper one by quasiconcavity.

Both maximize J(s) = (s/2) (z(p_1) - z(p_2)), with p_1 >= p_2 the two largest shares of votes under
noise s. Votes at different s read the same noise, so differences of J are sharp. A search chooses a
level; it proves nothing. Its votes enter no bound.

`MultiStart` (Insta-RS, Chen et al., 2021): ascent in log s from several starts; the ends are
compared on fresh noise. `Quasiconcave` (QCRS, Kung and Chen, 2023): bisection on the sign of
J(s + step) - J(s - step), right if J has one peak. `GridSearch`: the best of given levels, the only
search there is over experts.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, log
from typing import Any, Protocol, TypeAlias

import numpy as np
import scipy

from dualsmooth.engine.checks import one_of, positive, positive_integer
from dualsmooth.engine.draws import Counts, Draw, Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Networks

SearchProcedure: TypeAlias = Generator[Draw, Counts, float]
"""Search for one image: yields draws, receives votes, returns a noise level."""


class Search(Protocol):
    """A way to look for the noise level of an input."""

    @property
    def name(self) -> str:
        """As written into certificates."""

    def run(self, networks: Networks) -> SearchProcedure:
        """Search for one image."""


@dataclass(frozen=True)
class MultiStart:
    """Ascent from several noise levels, the first and last of which limit the search.

    ``votes`` are spent per evaluation of J; a step that fails is halved.
    """

    starts: tuple[float, ...] = (0.12, 0.25, 0.5, 1.0)
    votes: int = 100
    steps: int = 6
    name = "multi-start"

    def __post_init__(self) -> None:
        check_range("starts", self.starts)
        positive_integer("votes", self.votes)
        positive_integer("steps", self.steps)

    def run(self, networks: Networks) -> SearchProcedure:
        """Climb from every start, then compare the ends on fresh noise."""
        ends = []
        for start in self.starts:
            ends.append((yield from self._climb(networks, start)))
        return (yield from best_of(networks, tuple(dict.fromkeys(ends)), self.votes))

    def _climb(self, networks: Networks, start: float) -> SearchProcedure:
        low, high = self.starts[0], self.starts[-1]
        here, step = start, 0.5 * log(2.0)
        value = yield from evaluate(networks, here, Phase.SEARCH, self.votes)
        for _ in range(self.steps):
            best = here
            for sign in (-1.0, 1.0):
                there = min(max(here * exp(sign * step), low), high)
                if there != here:
                    other = yield from evaluate(networks, there, Phase.SEARCH, self.votes)
                    if other > value:
                        best, value = there, other
            if best == here:
                step /= 2.0
            here = best
        return here


@dataclass(frozen=True)
class Quasiconcave:
    """Bisection for the peak of J between two noise levels.

    ``step`` is half of the distance between the two levels that are compared.
    """

    low: float = 0.12
    high: float = 1.0
    votes: int = 500
    step: float = 0.02
    steps: int = 5
    name = "quasiconcave"

    def __post_init__(self) -> None:
        check_range("low, high", (self.low, self.high))
        positive("step", self.step)
        if not self.step < self.low:
            raise ArgumentError("step", f"must be below low = {self.low:g}", self.step)
        positive_integer("votes", self.votes)
        positive_integer("steps", self.steps)

    def run(self, networks: Networks) -> SearchProcedure:
        """Halve the range by the sign of a difference."""
        low, high = self.low, self.high
        for _ in range(self.steps):
            middle = (low + high) / 2
            above = yield from evaluate(networks, middle + self.step, Phase.SEARCH, self.votes)
            below = yield from evaluate(networks, middle - self.step, Phase.SEARCH, self.votes)
            if above > below:
                low = middle
            else:
                high = middle
        return (low + high) / 2


@dataclass(frozen=True)
class GridSearch:
    """The best of given noise levels, ascending."""

    sigmas: tuple[float, ...]
    votes: int = 100
    name = "grid"

    def __post_init__(self) -> None:
        check_range("sigmas", self.sigmas)
        positive_integer("votes", self.votes)

    def run(self, networks: Networks) -> SearchProcedure:
        """Evaluate every level."""
        return best_of(networks, self.sigmas, self.votes)


def evaluate(
    networks: Networks, sigma: float, phase: Phase, votes: int
) -> Generator[Draw, Counts, float]:
    """J at one noise level, by votes that every level shares the noise of."""
    counts = yield Draw(networks.classifier_at(sigma), sigma, phase, 0, votes)
    return objective(counts, sigma)


def objective(counts: Counts, sigma: float) -> float:
    """J(s) from votes; shares are kept half a vote away from 0 and 1. -inf without a valid vote."""
    n = int(counts.sum())
    shares = np.sort(counts[:-1])[::-1] / n
    if not shares[0] > 0.0:
        return -inf
    runner_up = shares[1] if len(shares) > 1 else 0.0
    first, second = np.clip([shares[0], runner_up], 0.5 / n, 1.0 - 0.5 / n)
    return sigma / 2 * float(scipy.special.ndtri(first) - scipy.special.ndtri(second))


def best_of(networks: Networks, sigmas: tuple[float, ...], votes: int) -> SearchProcedure:
    """The level with the largest J on noise of its own, lowest on ties."""
    values = []
    for sigma in sigmas:
        values.append((yield from evaluate(networks, sigma, Phase.SEARCH_CHECK, votes)))
    return sigmas[int(np.argmax(values))]


def check_range(name: str, values: tuple[float, ...]) -> None:
    """Raise `ArgumentError` unless values are finite, > 0 and ascending."""
    for value in values:
        positive(name, value)
    if not values or any(not b > a for a, b in pairwise(values)):
        raise ArgumentError(name, "must be ascending noise levels", values)


def make_search(bundle: Bundle, name: str | None) -> Search:
    """A search by name; by default multi-start, or grid over experts."""
    sigmas = bundle.sigmas or (0.12, 0.25, 0.5, 1.0)
    experts = any("@" in role for role in bundle.networks)
    makers: dict[str, Callable[[], Search]] = {
        "multi-start": lambda: MultiStart(sigmas),
        "quasiconcave": lambda: Quasiconcave(sigmas[0], sigmas[-1], step=min(0.02, sigmas[0] / 2)),
        "grid": lambda: GridSearch(sigmas),
    }
    name = name or ("grid" if experts else "multi-start")
    one_of("search", name, tuple(makers))
    if name == Quasiconcave.name and len(sigmas) == 1:
        rule = f"must be multi-start or grid for a bundle with one noise level, {sigmas[0]:g}"
        raise ArgumentError("search", rule, name)
    return makers[name]()


def search_of(record: Mapping[str, Any]) -> Search:
    """The search of a run's record."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k != "kind"}
    kinds: dict[str, Any] = {kind.name: kind for kind in (GridSearch, MultiStart, Quasiconcave)}
    made: Search = kinds[record["kind"]](**values)
    return made
