"""Runs that go on: what they logged is checked first, and they may ask for more.

More images change no certificate that is there, and each is wrong with probability at most alpha
on its own. More votes go on in the stream where the earlier ones stopped, so only the missing ones
are drawn. But whoever asks for more has seen the earlier certificate and may have kept it: what is
reported in the end is the first certificate that pleased, and that is wrong whenever the one of the
look at which it stopped is. Whatever the reason to stop, that has probability at most the sum of
the levels of all looks. So every look spends a level of its own: alpha is what all of them may
spend together, a look gets what the earlier ones have left, and where nothing is left it is
refused. A look counts from its start, whether its certificates were seen or not.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.options import Recorded
from dualsmooth.engine.records import unlike
from dualsmooth.engine.runs.log import EARLIER, LOG, RunLog, read_log
from dualsmooth.engine.runs.record import earlier_looks, read_configuration
from dualsmooth.engine.runs.rederive import Plan, budget_of, differences, rederive, stamp_of
from dualsmooth.engine.runs.reuse import IMAGES, holds
from dualsmooth.engine.runtime.known import RecordedVotes
from dualsmooth.engine.runtime.session import bundle_of

SAME = ("options", "n0", "budget", "radii", "tolerance")
"""What a run in a folder has alike if it goes on with more votes. A run whose votes are reused
looked at the same system if its options are alike: whatever votes chose, or were asked."""

VOTES = {"n", "alpha", "earlier"}


def next_look(asked: dict[str, Any], begun: dict[str, Any] | None, reuse: Sequence[Path]) -> None:
    """Set the level that earlier looks at fewer votes leave of alpha, and name those looks.

    They are those of the run in the folder, and of runs of the same system whose votes are reused.
    `ArgumentError` if nothing is left.
    """
    looks = [] if begun is None else earlier_looks(begun)
    before = [(known, SAME[:1]) for known in map(read_configuration, reuse)]
    for known, alike in [*([] if begun is None else [(begun, SAME)]), *before]:
        if known["n"] < asked["n"] and all(known[name] == asked[name] for name in alike):
            new = [*earlier_looks(known), [known["n"], known["alpha"]]]
            looks += [look for look in new if look not in looks]
    if not looks:
        return
    spent, most = [alpha for _, alpha in looks], asked["alpha"]
    level = most - math.fsum(spent)
    while level > 0.0 and math.fsum([*spent, level]) > most:
        level = math.nextafter(level, 0.0)
    if not level > 0.0:
        seen = ", ".join(f"{n:,} votes at {alpha:g}" for n, alpha in sorted(looks))
        rule = f"must be above {math.fsum(spent):g}, spent by earlier looks ({seen})"
        hint = f"--alpha {2 * math.fsum(spent):g} leaves as much again for more votes"
        raise ArgumentError("alpha", rule, most, hint)
    asked |= {"alpha": level, "earlier": sorted(looks)}


def grows(
    begun: dict[str, Any] | None,
    asked: dict[str, Any],
    data: ImageSet,
    image_ids: list[int],
    folder: Path,
) -> bool:
    """Whether a run in a folder may go on as the one asked for, which has more images or votes."""
    if begun is None:
        return False
    changed = {*unlike(begun, asked)}
    if (
        not changed
        or not changed <= IMAGES | VOTES
        or (changed & VOTES and asked["n"] <= begun["n"])
    ):
        return False
    reached = [certificate.image_id for certificate in read_log(folder)]
    return not changed & IMAGES or holds(begun, reached, data, image_ids)


def keep_name(
    asked: dict[str, Any],
    begun: dict[str, Any] | None,
    data: ImageSet,
    image_ids: list[int],
    folder: Path,
) -> None:
    """Call images as the run that they are of did: a path may be spelled in many ways."""
    if begun is None or begun["data"] == asked["data"]:
        return
    reached = (certificate.image_id for certificate in read_log(folder))
    if begun["data_digest"] == asked["data_digest"] or holds(begun, reached, data, image_ids):
        asked["data"] = begun["data"]


def read_earlier(
    book: RecordedVotes,
    folder: Path,
    method: Method,
    data: ImageSet,
    configuration: dict[str, Any],
    image_ids: list[int],
) -> None:
    """Take in the votes that were set aside when a run began to ask for more of them."""
    done = {c.image_id: c for c in read_log(folder, name=EARLIER)}
    if not done:
        return
    n, alpha = earlier_looks(configuration)[-1]
    before = configuration | {"n": n, "alpha": alpha}
    for certificate in derived(done, folder / EARLIER, method, data, before, image_ids):
        for record in certificate.counts:
            book.add(certificate.image_id, record)


def check_logged(
    log: RunLog, method: Method, data: ImageSet, configuration: dict[str, Any], ids: list[int]
) -> None:
    """Derive every logged certificate again, in the order of the run; a memory learns them so.

    A `FileError` if a line is about an image that is not part of the run, or its votes give another
    certificate in this run.
    """
    for certificate in derived(log.done, log.folder / LOG, method, data, configuration, ids):
        method.settle(certificate)
    method.check_settled()


def derived(
    done: Mapping[int, Certificate],
    path: Path,
    method: Method,
    data: ImageSet,
    configuration: dict[str, Any],
    ids: list[int],
) -> Iterator[Certificate]:
    """Certificates of a log, each once it has been derived again; raises as `check_logged` does."""
    outside = sorted(set(done) - set(ids))
    if outside:
        rule = "must hold images of the run only"
        raise FileError(path, rule, f"image {outside[0]}", "use --fresh")
    bundle = bundle_of(method)
    again = Recorded.at(method, data)
    budget, stamp = budget_of(configuration), stamp_of(configuration, bundle)
    plan = Plan(bundle, again, budget, configuration["alpha"], stamp)
    for image_id in (i for i in ids if i in done):
        certificate = done[image_id]
        label = int(data.labels[data.places([image_id])[0]])
        try:
            changed = differences(certificate, rederive(plan, certificate), 0.0)
            if changed or certificate.label != (label if label >= 0 else None):
                raise ValueError(f"another {', '.join(changed) or 'label'}")
        except ValueError as error:
            rule = f"must be the log of this run, image {image_id}"
            raise FileError(path, rule, error, "use --fresh") from error
        yield certificate
