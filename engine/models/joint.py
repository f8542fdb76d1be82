"""Joint votes: one row of noise votes for a noise level and for a class.

A selector smoothed at tau may be the classifier of the level s_k = tau, too: one pass, two answers,
h and f_k of the same noisy image. Its counts are of pairs, [levels x classes]; sums over classes
are votes for levels, sums over levels votes for classes.

Theorem. If a procedure is valid with votes of f_k on noise of their own, it is valid with those
that the selector's rows cast, stage by stage: guesses from guesses, estimates from estimates.
Proof. Votes for a level and votes for a class are binomial, each with its own probability, however
they depend on each other; sample sizes, events, chains and the class are functions of guesses,
which no estimate shares noise with. So every bound and every sequential test has its level, as
before, and bounds are joined by rules that hold under any dependence: minimum, sum and chain.
Draws may depend on other estimates in one way, whether they are asked for, which is the same as
being asked for and not looked at.

A draw may be answered with more votes than it asked for, if so many were drawn before: of a number
that the guesses fixed.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from dualsmooth.engine.draws import Counts, Draw, Phase
from dualsmooth.engine.models.bundle import SELECTOR
from dualsmooth.engine.models.network import Networks

Result = TypeVar("Result")

STAGES = {
    Phase.CLASS_GUESS: Phase.SELECT_GUESS,
    Phase.CLASS_ESTIMATE: Phase.SELECT_ESTIMATE,
    Phase.CLASS_PREDICT: Phase.SELECT_PREDICT,
}
"""Whose rows cast the votes of the classifier at tau."""


def joint_level(networks: Networks) -> int | None:
    """Index of the level whose classifier is the selector; None if votes are not joint."""
    if not getattr(networks, "joint", False) or networks.tau is None:
        return None
    return networks.sigmas.index(networks.tau)


def level_votes(joint: Counts, levels: int) -> Counts:
    """Votes for levels, shape (levels + 1,), of votes for pairs; the last entry is invalid."""
    return np.append(joint[:-1].reshape(levels, -1).sum(1), joint[-1])


def class_votes(joint: Counts, levels: int) -> Counts:
    """Votes for classes, shape (classes + 1,), of votes for pairs; the last entry is invalid."""
    return np.append(joint[:-1].reshape(levels, -1).sum(0), joint[-1])


def with_joint_votes(
    make: Callable[..., Generator[Draw, Counts, Result]],
) -> Callable[..., Generator[Draw, Counts, Result]]:
    """Decorate a method's procedure that asks a selector and classifiers, for joint votes.

    Draws of the selector are answered with its votes for levels, those of the classifier at tau
    with the votes that the same rows cast for classes: a row is drawn once.
    """

    @wraps(make)
    def answered(method: Any, *arguments: Any) -> Generator[Draw, Counts, Result]:
        return _answered(make(method, *arguments), method.networks)

    return answered


def _answered(
    procedure: Generator[Draw, Counts, Result], networks: Networks
) -> Generator[Draw, Counts, Result]:
    at, levels = joint_level(networks), len(networks.sigmas)
    if at is None:
        return (yield from procedure)
    known: dict[tuple[Phase, int], Counts] = {}
    votes: Counts | None = None
    with closing(procedure):
        while True:
            try:
                draw = next(procedure) if votes is None else procedure.send(votes)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            if draw.model == SELECTOR:
                votes = level_votes((yield from _cast(draw, known)), levels)
            elif draw.level == at:
                assert networks.tau is not None
                stage = STAGES[draw.phase]
                draw = replace(draw, model=SELECTOR, sigma=networks.tau, phase=stage, level=0)
                votes = class_votes((yield from _cast(draw, known)), levels)
            else:
                votes = yield draw


def _cast(draw: Draw, known: dict[tuple[Phase, int], Counts]) -> Generator[Draw, Counts, Counts]:
    """Votes for pairs of at least the rows of a draw, those that are known and then new ones."""
    votes, first, end = np.zeros((), np.int64), draw.first, draw.first + draw.count
    while first < end:
        place = (draw.phase, first)
        if place not in known:
            known[place] = yield replace(draw, first=first, count=end - first)
        votes = votes + known[place]
        first += int(known[place].sum())
    return votes
