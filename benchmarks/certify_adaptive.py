"""CertifyAdaptive of Horvath et al. (arXiv 2106.06946), for comparison only.

Is the radius above r, yes or no? Round i draws n_i fresh votes, certifies if the Clopper-Pearson
lower bound at level alpha / s is above p0 = Phi(r / sigma), and gives up if the upper bound at
level beta / (s - 1) is below p0, except in the last of the s rounds. By the union bound a wrong yes
has probability at most alpha. `dualsmooth.engine.sequential` answers the same question with exact
levels and without throwing votes of earlier rounds away.
"""

from collections.abc import Callable, Sequence

from dualsmooth.engine.bounds import clopper_pearson_lower, clopper_pearson_upper


def certify_adaptive(
    draw: Callable[[int], int], p0: float, sizes: Sequence[int], alpha: float, beta: float
) -> tuple[bool, int]:
    """Whether P(vote for the class) > p0 was shown, and the votes drawn.

    Parameters
    ----------
    draw : callable
        Takes n and returns how many of n fresh votes are for the class.
    p0 : float
        Probability to beat, in (0, 1).
    sizes : sequence of int
        Votes of each round.
    alpha, beta : float
        Probability of a wrong yes, and of giving up although p > p0.
    """
    used = 0
    for size in sizes[:-1]:
        k, used = draw(size), used + size
        if clopper_pearson_lower(k, size, alpha / len(sizes)) > p0:
            return True, used
        if clopper_pearson_upper(k, size, beta / (len(sizes) - 1)) < p0:
            return False, used
    k, last = draw(sizes[-1]), sizes[-1]
    return bool(clopper_pearson_lower(k, last, alpha / len(sizes)) > p0), used + last
