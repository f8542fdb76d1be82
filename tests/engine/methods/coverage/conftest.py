"""What the coverage tests share: how many wrong runs are too many, and votes of a known law."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.draws import Counts, Draw, Phase
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.method import Procedure
from dualsmooth.engine.runtime.drive import answered


def most_wrong(runs: int, alpha: float) -> int:
    """Wrong runs that a sound method exceeds with probability 1e-6 at most."""
    return int(stats.binom.ppf(1 - 1e-6, runs, alpha))


RUNS, ALPHA = 10_000, 0.01
LIMIT = most_wrong(RUNS, ALPHA)


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


def just_below(radius: float, sigma: float = 1.0) -> float:
    """A probability whose radius is below ``radius`` by one part in a billion."""
    return float(ndtr(radius / sigma * (1 - 1e-9)))


def drawn(
    procedure: Procedure, law: Callable[[Draw], Sequence[float]], rng: np.random.Generator
) -> Claim:
    """Drive a procedure with votes from true probabilities; no sample is drawn twice."""
    following: dict[tuple[Phase, int], int] = {}

    def answer(draw: Draw) -> Counts:
        key = draw.phase, draw.level
        assert draw.first == following.get(key, 0)
        following[key] = draw.first + draw.count
        return rng.multinomial(draw.count, law(draw))

    return answered(procedure, answer)


def spend_twice(patch: pytest.MonkeyPatch, alpha: float = ALPHA) -> None:
    """Unsound: both stages of a chain have the whole of alpha."""
    ledger = AlphaLedger("chain", 2 * alpha, {"selector": alpha, "classifier": alpha})
    patch.setattr(DualSmoothing, "_ledger", lambda *_: ledger)
