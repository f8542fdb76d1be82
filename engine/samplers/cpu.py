"""Sampler for processors: compiled noise and vote counts around a network fused by oneDNN.

As in `dualsmooth.engine.samplers.eager`, every forward pass has the same padded shape and
runs on one thread, and threads work on different batches, so a vote depends neither on batch mates
nor on the number of threads. Noise is the specification's, rounded once to float32. A thread that
is done with one call goes on with the next, while the caller reads votes.
"""

import copy
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.backends import AUTO, OPENVINO, Tried, check_backend
from dualsmooth.engine.checks import one_of, positive_integer
from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.images import check_shape, grid_steps
from dualsmooth.engine.machine import keep_freed_memory
from dualsmooth.engine.models.ensemble import by_stages
from dualsmooth.engine.models.forms import Form, first_proved
from dualsmooth.engine.models.rows import noisy
from dualsmooth.engine.noise.integer import thresholds
from dualsmooth.engine.noise.stream import counter_word3
from dualsmooth.engine.samplers.eager import dtype_of, one_thread
from dualsmooth.engine.samplers.fusion.bf16 import in_bf16_loops, multiplies_bf16
from dualsmooth.engine.samplers.fusion.fold import Made, folded_network
from dualsmooth.engine.samplers.fusion.onednn import fuse_for_cpu
from dualsmooth.engine.samplers.openvino import converted_network, openvino_network
from dualsmooth.engine.samplers.sampler import Pending, Sampler, Segment, thread_count
from dualsmooth.engine.settings import NOISES
from dualsmooth.engine.terminal.progress import step
from dualsmooth.kernels.cpu.noise_votes import SEGMENT, NoisyRows, count_votes
from dualsmooth.kernels.thresholds import Thresholds

BATCHES_PER_CALL = 4
"""Batches per thread and call: few, so that there is another call to go on with."""


class CpuSampler(Sampler):
    """Counts votes of torch networks on a CPU; takes what `TorchSampler` takes, and a backend.

    ``loops``, and ``auto`` here, is the path above; ``openvino`` is an error where it is missing,
    cannot run a network, or gives a row other logits at another place in the batch. What is
    ``made`` of a network for such batches is not made again; not ``proved``, it can be timed.
    """

    depth = 2

    def __init__(
        self,
        networks: Mapping[str, torch.nn.Module],
        outputs: Mapping[str, int],
        shape: tuple[int, int, int],
        *,
        seed: int,
        attempt: int = 0,
        batch_size: int = 256,
        threads: int | None = None,
        precision: str = "fp32",
        backend: str = AUTO,
        noise: str = "gaussian",
        made: Mapping[str, Made] | None = None,
        proved: bool = True,
    ) -> None:
        positive_integer("batch_size", batch_size)
        self.backend, self._proved = check_backend(backend, "cpu"), proved
        self.name = f"cpu:{OPENVINO}" if backend == OPENVINO else "cpu"
        self._on_grid = one_of("noise", noise, NOISES) == "integer"
        self._levels: dict[float, int] = {}
        self._tables: Thresholds | None = None
        self.shape, self.seed, self.batch_size = shape, seed, batch_size
        self.threads = thread_count(threads)
        self._outputs, self._dtype = dict(outputs), dtype_of(precision)
        if backend == OPENVINO:
            self._dtype = torch.float32  # of its inputs; inside it keeps to the precision
        self.tried: dict[str, Tried] = {}
        self._word3 = counter_word3(0, attempt)
        self._images = np.zeros((0, *shape), np.float32)
        self._local = threading.local()
        keep_freed_memory()
        self._pool = ThreadPoolExecutor(self.threads, initializer=one_thread)
        self._networks = {
            name: self._ready(name, network, precision, made[name] if made else Made(batch_size))
            for name, network in networks.items()
        }

    @property
    def capacity(self) -> int:
        """Rows that give every thread a few full batches per call."""
        return self.batch_size * self.threads * BATCHES_PER_CALL

    def load(self, slot: int, image: NDArray[np.float32]) -> None:
        """Put an image, float32, shape (height, width, channels), into a slot."""
        check_shape(image, self.shape)
        if slot >= len(self._images):
            grown = np.zeros((2 * slot + 1, *self.shape), np.float32)
            grown[: len(self._images)] = self._images
            self._images = grown
        self._images[slot] = grid_steps(image) if self._on_grid else image

    def submit(self, model: str, segments: Sequence[Segment]) -> Pending:
        """Start what `count` does; images may be loaded into other slots meanwhile."""
        table = self._table(segments)
        rows, bins = int(table["end"][-1]), self._outputs[model] + 1
        noise = NoisyRows(table, self._images, self.seed, tables=self._tables)
        starts = deque(range(0, rows, self.batch_size))  # shared: a slow core takes fewer batches

        def work() -> NDArray[np.int64]:
            counts = np.zeros((len(segments), bins), np.int64)
            while True:
                try:
                    first = starts.popleft()
                except IndexError:
                    return counts
                logits = self._logits(model, noise, first, min(self.batch_size, rows - first))
                count_votes(logits, table, first, counts)

        shares = [self._pool.submit(work) for _ in range(self.threads)]

        def collect() -> NDArray[np.int64]:
            votes = np.zeros((len(segments), bins), np.int64)
            for share in shares:
                votes += share.result()
            return votes

        return collect

    def form(self, model: str) -> torch.nn.Module:
        """What runs a network."""
        return self._networks[model]

    def close(self) -> None:
        """Stop the worker threads."""
        self._pool.shutdown()

    def _table(self, segments: Sequence[Segment]) -> NDArray[np.void]:
        table = np.zeros(len(segments), SEGMENT)
        table["end"] = np.cumsum([s.count for s in segments])
        table["image"] = [s.slot for s in segments]
        table["first"] = [s.first for s in segments]
        table["image_id"] = [s.image_id for s in segments]
        table["word3"] = [s.stream | self._word3 for s in segments]
        table["sigma"] = [s.sigma for s in segments]
        if self._on_grid:
            table["level"] = self._levels_of([s.sigma for s in segments])
        return table

    def _levels_of(self, sigmas: Sequence[float]) -> list[int]:
        """Index of each sigma's thresholds; they are made when a sigma is first met."""
        known = len(self._levels)
        found = [self._levels.setdefault(sigma, len(self._levels)) for sigma in sigmas]
        if len(self._levels) > known:
            self._tables = Thresholds.pack([thresholds(sigma) for sigma in self._levels])
        return found

    def _logits(self, model: str, noise: NoisyRows, first: int, rows: int) -> torch.Tensor:
        batch = self._buffer()
        noise.write(first, batch, rows)
        with torch.inference_mode():
            answers: torch.Tensor = self._networks[model](batch.permute(0, 3, 1, 2))
            logits = answers[:rows].float().contiguous()
        if logits.shape != (rows, self._outputs[model]):
            raise ArgumentError(
                model, f"must return {self._outputs[model]} logits per row", tuple(logits.shape)
            )
        return logits

    def _buffer(self) -> torch.Tensor:
        """Batch of this thread; padding holds rows of earlier batches, which changes no vote."""
        if not hasattr(self._local, "batch"):
            self._local.batch = torch.zeros(self.batch_size, *self.shape, dtype=self._dtype)
        batch: torch.Tensor = self._local.batch
        return batch

    def _ready(
        self, model: str, network: torch.nn.Module, precision: str, made: Made
    ) -> torch.nn.Module:
        """What runs the network in this precision; made and tried once on a worker thread."""
        doing = "proving" if self._proved else "making"
        try:
            with step(f"{model}: {doing} what runs it by {self.backend} in {precision}"):
                return self._pool.submit(self._form, model, network, precision, made).result()
        except RuntimeError as error:
            if "memory" in (why := reason_of(error)):
                rule = f"must fit into memory ({why})"
                raise ArgumentError("batch_size", rule, self.batch_size) from error
            rule = f"must suit the network ({why})"
            raise ArgumentError("precision", rule, self._dtype, "try fp32") from error
        finally:
            if made.reasons:
                why = f"it cannot be captured: {made.reasons[0]}"
                self.tried[f"{model} on {self.name}"] = {"fused": why}

    def _form(
        self, model: str, network: torch.nn.Module, precision: str, made: Made
    ) -> torch.nn.Module:
        shape, library = (self.batch_size, *self.shape), self.backend == OPENVINO
        name = f"{self.backend} {precision}" + f" by {self.threads}" * library

        def folded() -> torch.nn.Module:
            fold = partial(folded_network, network, self._dtype, shape, made.reasons.append)
            return made.once(f"folded {self._dtype}", fold)

        def plain() -> torch.nn.Module:
            if library:
                return converted_network(model, folded(), shape, precision, self.threads)
            return self._fused(folded())

        def proved() -> torch.nn.Module:
            if library:
                return openvino_network(model, forms[0][1](), network, shape, precision)
            batch = noisy(self.batch_size, self.shape).to(self._dtype)
            return first_proved(model, network, batch, forms)

        forms: list[Form] = [("fused", partial(made.once, name, plain))]
        if self._dtype == torch.bfloat16 and multiplies_bf16():
            looped = partial(in_bf16_loops, network, model, shape)
            forms = [("in the bfloat16 loops", looped), *forms]
        if self._proved:
            return made.once(f"{name}, proved", proved)
        for _, make in forms[:-1]:
            with suppress(ArgumentError):  # a layer may have no place in the loops
                return make()
        return forms[-1][1]()

    def _fused(self, folded: torch.nn.Module) -> torch.nn.Module:
        """A copy of the network with layers fused by oneDNN."""

        def batch(rows: int) -> torch.Tensor:
            return torch.zeros(rows, *self.shape, dtype=self._dtype).permute(0, 3, 1, 2)

        def fuse(stage: torch.nn.Module, rows: int | None) -> torch.nn.Module:
            return fuse_for_cpu(stage, batch(rows or self.batch_size))

        return by_stages(copy.deepcopy(folded), fuse)
