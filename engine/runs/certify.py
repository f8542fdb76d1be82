"""Certify a data set into a run folder: what ``dualsmooth certify`` does."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.cluster.team import Workers, open_session
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, StoppedError
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.models.network import check_digested
from dualsmooth.engine.runs import resume as going_on
from dualsmooth.engine.runs.commit import GroupCommit
from dualsmooth.engine.runs.describe import as_recorded, checked, describe
from dualsmooth.engine.runs.log import RunLog
from dualsmooth.engine.runs.progress import Progress
from dualsmooth.engine.runs.record import About, alpha_of_looks, read_configuration
from dualsmooth.engine.runs.reuse import read_votes
from dualsmooth.engine.runs.run_checks import RUN
from dualsmooth.engine.runs.summary import RADII, Summary, rows_of, summarize
from dualsmooth.engine.runtime.fitting import is_out_of_memory
from dualsmooth.engine.runtime.known import RecordedVotes
from dualsmooth.engine.runtime.session import Session, bundle_of
from dualsmooth.engine.samplers.sampler import MakeSampler
from dualsmooth.engine.settings import Settings


def certify_run(
    method: Method,
    data: ImageSet,
    image_ids: list[int],
    settings: Settings,
    folder: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    reuse: Sequence[Path] = (),
    make: MakeSampler | None = None,
    workers: int | None = None,
    ray: str | None = None,
) -> tuple[Summary, Session | Workers]:
    """Certify images of a data set; everything reached is on disk if the run is interrupted.

    ``image_ids`` are ids of images in the data set, on which noise depends. Votes of the runs in
    ``reuse`` on the same images are read, not drawn again. ``workers`` processes draw votes (two
    actors with ``ray``: ``local`` or the address of a cluster), by default none but this one, and
    never change one. Returns the summary, also written to the folder, and the session, which is
    closed. If anything is invalid, nothing has been written.
    """
    if resume and fresh:
        raise ArgumentError("fresh", "must be left out with resume", True, "give one of the two")
    bundle, image_ids = bundle_of(method), sorted(image_ids)  # as the finished log has them
    if resume or reuse:
        check_digested(bundle.networks, "resume" if resume else "reuse")
    begun = read_configuration(folder) if resume and (folder / RUN).exists() else None
    settings = checked(method, data, image_ids, as_recorded(settings, bundle, begun))
    method.follow_log(begun)
    configuration = describe(method, data, image_ids, settings)
    going_on.keep_name(configuration, begun, data, image_ids, folder)
    going_on.next_look(configuration, begun, reuse)
    settings = replace(settings, alpha=configuration["alpha"])
    with open_session(method, settings, make, workers, ray) as session:
        configuration["batch_size"] = session.batch_size
        configuration["sampler"] = session.sampler_name
        book = read_votes(reuse, configuration, data, image_ids)
        grown = begun if going_on.grows(begun, configuration, data, image_ids, folder) else None
        about = About(bundle.source, session.tried)
        log = RunLog(folder, configuration, about, resume=resume, fresh=fresh, grown=grown)
        with closing(log):
            if begun is not None:
                going_on.check_logged(log, method, data, configuration, image_ids)
                going_on.read_earlier(book, folder, method, data, configuration, image_ids)
            _certify_missing(session, data, image_ids, log, book)
            rows = rows_of([log.done[i] for i in image_ids])
            radii, looks = settings.budget.radii or RADII, alpha_of_looks(configuration)
            summary = summarize(method.name, rows, radii, alpha=looks)
            log.finish(summary.to_dict())
    return summary, session


def _certify_missing(
    session: Session | Workers,
    data: ImageSet,
    image_ids: list[int],
    log: RunLog,
    book: RecordedVotes,
) -> None:
    missing = [i for i in image_ids if i not in log.done]
    places = data.places(missing)
    labels = [int(label) for label in data.labels[places]]
    name, images = session.method.name, len(image_ids)
    view = Progress(name, images, images - len(missing), lambda: session.occupancy.share)

    def on_disk(group: list[Certificate]) -> None:
        view.update(len(group))
        for certificate in group:
            session.method.settle(certificate)

    with closing(view), _stopping(log), GroupCommit(log, on_disk) as commit:
        for certificate in session.certify(data.images[places], missing, labels, book):
            view.seen(certificate)
            commit.put(certificate)


@contextmanager
def _stopping(log: RunLog) -> Iterator[None]:
    """Stop cleanly when memory runs out: a smaller batch would be another classifier."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise StoppedError(
            f"{log.folder}: out of memory; {log.reached}; make room, or start afresh with a "
            "smaller --batch-size"
        ) from error
