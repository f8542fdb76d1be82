"""Which backend runs a network: checked first, then timed; and what is told about the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from statistics import median

import torch

from dualsmooth.engine.models.rows import BOUNDS, centred, close

AGREEMENT_LOST = 0.01
"""Share of votes a backend may move beyond what the precision itself moves."""

MORE_VOTES, MORE_ERROR = 1.5, 2.0
"""Times what eager PyTorch moves in its precision: votes that a backend may move, and logits."""

ROUNDS, PLAINLY = 7, 1.5


@dataclass(frozen=True, slots=True)
class Judge:
    """What a backend's logits are held against: [rows, classes] of eager PyTorch.

    ``eager`` in the precision of the run, ``truth`` in float32.
    """

    eager: torch.Tensor
    truth: torch.Tensor

    def fault(self, scores: torch.Tensor) -> str:
        """How logits are worse than eager PyTorch's; empty if they are not.

        A deep network multiplies rounding errors, so a backend may be as far from float32 as eager
        PyTorch is, times MORE_ERROR, beside what rounding alone explains.
        """
        if close(BOUNDS[self.eager.dtype], self.eager)(scores, self.eager):
            return ""
        finite = self.eager.isfinite()
        if scores.shape != finite.shape or not torch.equal(scores.isfinite(), finite):
            return "logits that are finite where the network's are not, or not where they are"
        kept = finite.all(1) & self.truth.isfinite().all(1)
        for seen in (torch.Tensor.float, centred):
            found, usual, exact = (seen(x[kept]) for x in (scores, self.eager, self.truth))
            error, own = (float((x - exact).abs().max()) for x in (found, usual))
            if not error <= MORE_ERROR * own:
                return f"logits {error:.3g} from float32's, where eager PyTorch's are {own:.3g}"
        return ""

    def moved(self, scores: torch.Tensor) -> float:
        """Share of votes that are others than in float32."""
        return float((scores.argmax(1) != self.truth.argmax(1)).float().mean())

    def refusal(self, scores: torch.Tensor) -> str:
        """Why a backend of these logits is not to be chosen; empty if it may be."""
        ours, theirs = self.moved(scores), self.moved(self.eager)
        if ours <= MORE_VOTES * theirs + AGREEMENT_LOST:
            return ""
        return f"moves {ours:.2%} of the votes, eager PyTorch {theirs:.2%} in this precision"


def fastest(
    passes: Mapping[str, Callable[[], None]],
    seconds: Callable[[Callable[[], None]], float],
    rounds: int = ROUNDS,
    most: float = inf,
) -> dict[str, float]:
    """Median time of each pass, the fastest first; ``seconds`` runs a pass and times it.

    All passes run in each round, so that a change of clock meets them all; the first round does not
    count. A pass that was PLAINLY slower than another in every round so far is left out from then
    on, and nothing is asked again where one is left, or once ``most`` seconds have gone by.
    """
    times: dict[str, list[float]] = {name: [] for name in passes}
    standing = list(passes)
    for round_ in range(rounds + 1):
        again = len(standing) > 1 and sum(map(sum, times.values())) < most
        for name in standing if round_ < 2 or again else ():
            times[name].append(seconds(passes[name]))
        limit = PLAINLY * min(max(times[name]) for name in standing)
        standing = [name for name in standing if not round_ or min(times[name]) <= limit]
    medians = {name: median(each[1:]) for name, each in times.items()}
    return dict(sorted(medians.items(), key=lambda entry: entry[1]))
