"""Draw votes of a run again, on this machine, and compare them with the recorded ones.

On the same processor or device, with the same PyTorch (and OpenVINO, if it ran the networks),
sampler, precision and batch shape a vote is a pure function, so the counts must be equal. Elsewhere
arithmetic differs in the last bits, so votes are drawn from noise of another attempt, independent
of the recorded ones, and each count is compared by Fisher's exact test. All tests of an audit
together give a false alarm with probability at most `FALSE_ALARMS`, as long as the other arithmetic
does not move the network's probabilities.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dualsmooth.engine.certificate import Certificate, DrawRecord
from dualsmooth.engine.checks import open_unit
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.draws import Draw, Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.machine import machine
from dualsmooth.engine.methods.registry import method_with_all
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.runs.audit import Audit
from dualsmooth.engine.runs.rederive import Plan
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import AUTO, Settings, libraries_of, recorded_backend

COMPARISONS = ("auto", "exact", "statistical")
FALSE_ALARMS = 1e-6
OTHER_ATTEMPT = 1 << 15
"""Added to the recorded attempt, modulo 2^16, where noise must be independent of the recorded."""


@dataclass(frozen=True)
class Choice:
    """Which certificates are drawn again, and how they are compared.

    Parameters
    ----------
    share : float
        Share of the certificates, in (0, 1]; at least one is drawn.
    seed : int
        Seed of the random choice.
    comparison : str
        ``exact``, ``statistical``, or ``auto``: exact where the votes must be equal.
    """

    share: float
    seed: int
    comparison: str = AUTO

    def __post_init__(self) -> None:
        if self.share != 1.0:
            open_unit("replay", self.share)
        if self.comparison not in COMPARISONS:
            known = ", ".join(COMPARISONS)
            raise ArgumentError("compare", f"must be one of {known}", self.comparison)

    def of(self, image_ids: list[int]) -> list[int]:
        """The chosen image ids, in order."""
        count = math.ceil(self.share * len(image_ids))
        chosen = np.random.default_rng(self.seed).choice(len(image_ids), count, replace=False)
        return [image_ids[i] for i in sorted(chosen)]


def replay(seen: Audit, plan: Plan, bundle: Bundle, data: ImageSet, choice: Choice) -> None:
    """Draw the votes of some certificates again and add what differs to the findings.

    Parameters
    ----------
    seen : Audit
        Without findings.
    plan : Plan
        Of the same run.
    bundle, data
        The networks, and the images, of the run.
    choice : Choice
        Which certificates.
    """
    chosen = [seen.certificates[i] for i in choice.of(sorted(seen.certificates))]
    with _session(seen, plan, bundle, choice.comparison) as session:
        exact = session.settings.attempt == plan.stamp.attempt
        again = dict(_draw_again(session, data, chosen))
        name = session.sampler.name
    if exact:
        wrong = [c.image_id for c in chosen if again[c.image_id] != c.counts]
        how = "compared exactly"
    else:
        wrong = _unlikely(chosen, again)
        how = f"with independent noise, by Fisher's test (false alarms <= {FALSE_ALARMS:g})"
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
    settings = Settings(
        plan.budget, plan.alpha, stamp.seed, attempt, stamp.device if here else AUTO,
        stamp.precision, stamp.batch_size,
        backend=recorded_backend(stamp.sampler) if here else AUTO, noise=stamp.noise,
    )  # fmt: skip
    session = Session(method_with_all(bundle), settings)
    if not here or session.sampler.name == stamp.sampler:
        return session
    session.close()
    if comparison == "exact":
        rule = f"must not be exact without the sampler {stamp.sampler}"
        raise ArgumentError("compare", rule, session.sampler.name)
    return _session(seen, plan, bundle, "statistical")


def _same_arithmetic(seen: Audit) -> bool:
    ours, theirs = machine(), seen.machine
    libraries = libraries_of(seen.configuration["sampler"])
    versions = [
        [dict(m.get("versions", {})).get(library) for library in libraries] for m in (ours, theirs)
    ]
    processors = [m.get("processor") for m in (ours, theirs)]
    devices = [m.get("devices") for m in (ours, theirs)]
    same_device = processors[0] == processors[1]
    if seen.configuration["device"] == "cuda":
        same_device = bool(devices[0]) and devices[0] == devices[1]
    return versions[0] == versions[1] and same_device


def _draw_again(
    session: Session, data: ImageSet, chosen: list[Certificate]
) -> Iterator[tuple[int, tuple[DrawRecord, ...]]]:
    ids = [certificate.image_id for certificate in chosen]
    draws = [[_draw(record) for record in certificate.counts] for certificate in chosen]
    yield from session.redraw(data.images[ids], ids, draws)


def _draw(record: DrawRecord) -> Draw:
    phase = Phase[record.phase]
    return Draw(record.model, record.sigma, phase, record.first, record.count, record.level)


def _unlikely(chosen: list[Certificate], again: dict[int, tuple[DrawRecord, ...]]) -> list[int]:
    """Images with a count that differs by more than chance allows, Bonferroni over all counts."""
    pairs = [
        (certificate.image_id, np.array([theirs.votes, ours.votes], np.int64))
        for certificate in chosen
        for theirs, ours in zip(certificate.counts, again[certificate.image_id], strict=True)
    ]
    tests = sum(votes.shape[1] for _, votes in pairs)
    level = FALSE_ALARMS / max(1, tests)
    return sorted({image for image, votes in pairs if not smallest_p(votes) > level})


def smallest_p(votes: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
    """Smallest two-sided p-value of Fisher's exact test over classes.

    Parameters
    ----------
    votes : ndarray of int64, shape (2, classes)
        Two histograms of equally many votes each.
    """
    from scipy.stats import hypergeom

    n, both = int(votes[0].sum()), votes.sum(axis=0)
    below = hypergeom.cdf(votes[0], 2 * n, both, n)
    above = hypergeom.sf(votes[0] - 1, 2 * n, both, n)
    return float(np.minimum(1.0, 2.0 * np.minimum(below, above)).min())
