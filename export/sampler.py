"""Sampler over ONNX Runtime: answers draws with the vote graphs of a deployment. No torch.

A session runs on the thread that calls it, and threads work on different rows, so votes do not
depend on the number of threads. Where a provider has no kernels for the integer operators of a vote
graph, noise is made here by the specification and fed to the network alone.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.images import check_shape
from dualsmooth.engine.models.sources.onnx_guard import read_deployed
from dualsmooth.engine.models.sources.onnx_session import CPU, OrtSession, make_session
from dualsmooth.engine.noise.stream import standard_normal
from dualsmooth.engine.samplers.sampler import Sampler, Segment, row_votes, thread_count
from dualsmooth.export.deployment import Deployment
from dualsmooth.export.feeds import vote_feeds

PASSES_PER_TASK = 8
"""Passes through a network per task of a thread: handing work over costs more than a small pass."""

Count = Callable[[Segment, NDArray[np.float32]], NDArray[np.int64]]
"""Votes of one segment of one image."""


class OnnxSampler(Sampler):
    """Counts votes of networks of a deployment, by their roles.

    With `feed_noise` the noise is made on the host even where the execution provider could. So many
    threads work on rows at once, by default one per available core.
    """

    def __init__(
        self,
        deployment: Deployment,
        roles: Sequence[str],
        *,
        seed: int,
        attempt: int = 0,
        provider: str = CPU,
        feed_noise: bool = False,
        threads: int | None = None,
    ) -> None:
        self.shape = deployment.bundle.input_shape
        self.batch_size = self.grain = deployment.batch_size
        self.threads = thread_count(threads)
        self._outputs = {role: deployment.outputs(role) for role in roles}
        self._seed, self._attempt = seed, attempt
        fed = feed_noise or not _has_integer_operators(deployment, roles, provider)
        place = deployment.network_file if fed else deployment.votes_file
        self._files = {role: place(role) for role in roles}
        self._count = {role: self._counter(role, provider, fed) for role in roles}
        kind = "noise fed" if fed else "noise in the graph"
        self.name = f"onnxruntime {onnxruntime.__version__}, {provider}, {kind}"
        self._images: dict[int, NDArray[np.float32]] = {}
        self._pool = ThreadPoolExecutor(self.threads)

    @property
    def capacity(self) -> int:
        """Rows that give every thread a few full passes per call."""
        return self.batch_size * self.threads * PASSES_PER_TASK

    def load(self, slot: int, image: NDArray[np.float32]) -> None:
        """Put an image, float32, shape (height, width, channels), into a slot."""
        check_shape(image, self.shape)
        self._images[slot] = np.ascontiguousarray(image, np.float32)

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        """Votes per segment, shape (segments, classes + 1); the last column is invalid votes."""
        step = self.batch_size * PASSES_PER_TASK
        tasks = [
            (index, segment.part(done, min(step, segment.count - done)))
            for index, segment in enumerate(segments)
            for done in range(0, segment.count, step)
        ]
        votes = np.zeros((len(segments), self._outputs[model] + 1), np.int64)

        def work(task: tuple[int, Segment]) -> tuple[int, NDArray[np.int64]]:
            counts = self._count[model](task[1], self._images[task[1].slot])
            sums = counts.shape == votes.shape[1:] and counts.sum() == task[1].count
            if not sums or counts.min() < 0:
                rule = f"must cast votes for {self._outputs[model]} classes, one a row"
                raise FileError(self._files[model], rule, f"{counts.tolist()} of {task[1].count}")
            return task[0], counts

        for index, counts in self._pool.map(work, tasks):
            votes[index] += counts
        return votes

    def close(self) -> None:
        """Stop the worker threads."""
        self._pool.shutdown()

    def _counter(self, role: str, provider: str, fed: bool) -> Count:
        path = self._files[role]
        model = read_deployed(path)
        try:
            session = make_session(model, provider)
        except ArgumentError:
            raise
        except Exception as error:  # ONNX Runtime's errors share no base
            rule = "must be a graph that this ONNX Runtime can run"
            raise FileError(path, rule, reason_of(error)) from error
        return self._fed(session, self._outputs[role]) if fed else self._in_graph(session)

    def _in_graph(self, session: OrtSession) -> Count:
        seed, attempt = self._seed, self._attempt

        def count(segment: Segment, image: NDArray[np.float32]) -> NDArray[np.int64]:
            feeds = vote_feeds(image, segment, seed, attempt)
            votes: NDArray[np.int64] = session.run(None, feeds)[0]
            return votes

        return count

    def _fed(self, session: OrtSession, outputs: int) -> Count:
        (pixels,) = (entry.name for entry in session.get_inputs())

        def one_pass(segment: Segment, image: NDArray[np.float32]) -> NDArray[np.int64]:
            samples = np.arange(segment.first, segment.first + segment.count)
            place = (self._seed, segment.image_id, segment.stream, samples, self.shape)
            noise = standard_normal(*place, attempt=self._attempt)
            batch = np.zeros((self.batch_size, *self.shape), np.float32)
            batch[: len(samples)] = image + np.float32(segment.sigma) * noise
            rows = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
            logits = session.run(None, {pixels: rows})[0]
            counted = logits[: len(samples) if logits.shape[1] == outputs else 0]
            return np.bincount(row_votes(counted), minlength=outputs + 1)

        def count(segment: Segment, image: NDArray[np.float32]) -> NDArray[np.int64]:
            step = self.batch_size
            votes = np.zeros(outputs + 1, np.int64)
            for done in range(0, segment.count, step):
                votes += one_pass(segment.part(done, min(step, segment.count - done)), image)
            return votes

        return count


def _has_integer_operators(deployment: Deployment, roles: Sequence[str], provider: str) -> bool:
    """Whether a provider runs a whole vote graph itself; warns if it does not."""
    if provider == CPU:
        return True
    model = read_deployed(deployment.votes_file(roles[0]))
    try:
        make_session(model, provider, alone=True)
    except ArgumentError:
        raise
    except Exception:  # ONNX Runtime's errors share no base
        warnings.warn(
            f"{provider} lacks operators of the vote graph, such as BitShift on uint64: noise is "
            "made on the host and fed to the networks",
            stacklevel=4,
        )
        return False
    return True
