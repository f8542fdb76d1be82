"""Draw votes of a run again, on this machine, and compare them with the recorded ones.

On the same processor or device, with the same PyTorch (and OpenVINO, if it ran the networks),
sampler, precision and batch shape a vote is a pure function, so the counts must be equal. Elsewhere
arithmetic differs in the last bits, so votes are drawn from noise of another attempt, independent
of the recorded ones. Each count is compared by Fisher's exact test; and the differences of the
winners' shares are pooled over all images, so that votes which favour every winner a little are
found too (`pooled_z`). All tests of an audit together give a false alarm with probability at most
`FALSE_ALARMS`, as long as the other arithmetic does not move the network's probabilities.

Whoever writes a run names its processor. If an audit compares statistically because another one is
named, that is part of its verdict: such a run could hold votes chosen among those the tests allow.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from dualsmooth.engine.backends import AUTO, libraries_of, recorded_backend
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import below, one_of
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.draws import DrawRecord, Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.machine import arithmetic, machine
from dualsmooth.engine.methods.registry import method_with_all
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.runs.audit import Audit
from dualsmooth.engine.runs.rederive import Plan
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import passing_bar

Votes = NDArray[np.int64]
COMPARISONS = ("auto", "exact", "statistical")
FALSE_ALARMS = 1e-6
OTHER_ATTEMPT = 1 << 15
"""Added to the recorded attempt, modulo 2^16, where noise must be independent of the recorded."""


@dataclass(frozen=True)
class Choice:
    """Which certificates are drawn again, at least one of them, and how they are compared.

    ``auto`` compares exactly where the votes must be equal, and statistically elsewhere.
    """

    share: float
    seed: int
    comparison: str = AUTO

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ArgumentError("replay", "must be in (0, 1]", self.share)
        below("choice", self.seed, 1 << 64)
        one_of("compare", self.comparison, COMPARISONS)

    def of(self, image_ids: list[int]) -> list[int]:
        """The chosen image ids, in order."""
        count = math.ceil(self.share * len(image_ids))
        chosen = np.random.default_rng(self.seed).choice(len(image_ids), count, replace=False)
        return [image_ids[i] for i in sorted(chosen)]


def replay(seen: Audit, plan: Plan, bundle: Bundle, data: ImageSet, choice: Choice) -> None:
    """Draw the votes of some certificates again and add what differs to the findings.

    The audit has none yet; plan, bundle and data are those of its run.
    """
    chosen = [seen.certificates[i] for i in choice.of(sorted(seen.certificates))]
    with _session(seen, plan, bundle, choice.comparison) as session:
        exact = session.settings.attempt == plan.stamp.attempt
        drawn = _draw_again(session, data, chosen)
        again = dict(passing_bar(iterable=drawn, desc="replay", total=len(chosen), unit="image"))
        name = session.sampler.name
    if exact:
        wrong = [c.image_id for c in chosen if again[c.image_id] != c.counts]
        how = "compared exactly"
    else:
        wrong = _unlikely(chosen, again)
        how = (
            "with independent noise, by Fisher's test and the winners' pooled shares (false alarms "
            f"<= {FALSE_ALARMS:g})"
        )
        if choice.comparison != "statistical":
            seen.trusted.append(
                "votes only to within chance: the run names another processor, device or library, "
                f"or a sampler this machine lacks ({name} here)"
            )
    text = (
        f"replay: {len(chosen)} of {len(seen.certificates)} certificates, choice seed "
        f"{choice.seed}, sampler {name}, {how}"
    )
    if wrong:
        images = ", ".join(map(str, wrong[:10])) + (", .." if len(wrong) > 10 else "")
        seen.findings.append(f"{text}: other votes for {len(wrong)} images: {images}")
    else:
        seen.passed.append(text)


def _session(seen: Audit, plan: Plan, bundle: Bundle, comparison: str) -> Session:
    """A session that can draw the recorded votes, or independent ones of the same law."""
    stamp = plan.stamp
    here = _same_arithmetic(seen) if comparison == AUTO else comparison == "exact"
    attempt = stamp.attempt if here else (stamp.attempt + OTHER_ATTEMPT) % (1 << 16)
    device, backend = (stamp.device, recorded_backend(stamp.sampler)) if here else (AUTO, AUTO)
    votes = (stamp.seed, attempt, device, stamp.precision, stamp.batch_size)
    settings = Settings(plan.budget, plan.alpha, *votes, backend=backend, noise=stamp.noise)
    session = Session.open(method_with_all(bundle), settings)
    if not here or session.sampler.name == stamp.sampler:
        return session
    session.close()
    if comparison == "exact":
        rule = f"must not be exact without the sampler {stamp.sampler}"
        raise ArgumentError("compare", rule, session.sampler.name)
    return _session(seen, plan, bundle, "statistical")


def _same_arithmetic(seen: Audit) -> bool:
    run = seen.configuration
    libraries, device = libraries_of(run["sampler"], run["bundle_manifest"]), run["device"]
    ours, theirs = (arithmetic(m, libraries, device) for m in (machine(), seen.machine))
    return ours == theirs and None not in ours.values()


def _draw_again(
    session: Session, data: ImageSet, chosen: list[Certificate]
) -> Iterator[tuple[int, tuple[DrawRecord, ...]]]:
    ids = [certificate.image_id for certificate in chosen]
    draws = [[record.draw for record in certificate.counts] for certificate in chosen]
    yield from session.redraw(data.images[data.places(ids)], ids, draws)


def _unlikely(chosen: list[Certificate], again: dict[int, tuple[DrawRecord, ...]]) -> list[int]:
    """Images with a count that differs by more than chance allows, Bonferroni over all counts."""
    pairs = [
        (certificate.image_id, theirs.phase, np.array([theirs.votes, ours.votes], np.int64))
        for certificate in chosen
        for theirs, ours in zip(certificate.counts, again[certificate.image_id], strict=True)
    ]
    tests = sum(votes.shape[1] for _, _, votes in pairs)
    level = FALSE_ALARMS / (2 * max(1, tests))
    unlikely = {image for image, _, votes in pairs if not smallest_p(votes) > level}
    for phase in (Phase.CLASS_ESTIMATE, Phase.SELECT_ESTIMATE):
        z = pooled_z([votes for _, drawn_in, votes in pairs if drawn_in == phase.name])
        if not 2.0 * float(scipy.special.ndtr(-abs(z))) > FALSE_ALARMS / 4:
            unlikely |= {certificate.image_id for certificate in chosen}
    return sorted(unlikely)


def pooled_z(pairs: Sequence[Votes]) -> float:
    """Signed differences of the winners' counts, each over its standard deviation: about N(0, 1).

    A pair is two histograms of equally many votes, shape (2, classes). Their winner is that of both
    together, so that neither is favoured.
    """
    scaled = []
    for votes in pairs:
        n, (theirs, ours) = int(votes[0].sum()), votes[:, int(votes.sum(axis=0).argmax())].tolist()
        both = theirs + ours
        # Which of 2n votes are in the first half is chance: `theirs` is hypergeometric.
        variance = both * (2 * n - both) / max(1, 2 * n - 1)
        if variance:
            scaled.append((theirs - ours) / math.sqrt(variance))
    return sum(scaled) / math.sqrt(len(scaled)) if scaled else 0.0


def smallest_p(votes: Votes) -> float:
    """Smallest two-sided p-value of Fisher's exact test over classes.

    ``votes`` are two histograms of equally many votes, shape (2, classes).
    """
    from scipy.stats import hypergeom

    n, both = int(votes[0].sum()), votes.sum(axis=0)
    below = hypergeom.cdf(votes[0], 2 * n, both, n)
    above = hypergeom.sf(votes[0] - 1, 2 * n, both, n)
    return float(np.minimum(1.0, 2.0 * np.minimum(below, above)).min())
