"""Sampler on the CPU in eager PyTorch: the reference for every other sampler.

Every forward pass has the same padded shape and runs on one thread; threads work on different
batches. So a vote does not depend on batch mates, on its row, or on the number of threads.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.checks import one_of, positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import check_shape, grid_steps
from dualsmooth.engine.machine import keep_freed_memory
from dualsmooth.engine.models.forms import first_proved
from dualsmooth.engine.models.rows import noisy
from dualsmooth.engine.noise.integer import integer_rows, unit_of_grid
from dualsmooth.engine.noise.stream import counter_word3
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.engine.samplers.sampler import Sampler, Segment, row_votes, thread_count, unroll
from dualsmooth.engine.samplers.torch_noise import normal_rows
from dualsmooth.engine.settings import NOISES

BATCHES_PER_CALL = 8
"""Batches per thread and call: handing work to a thread costs more than a small batch."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchSampler(Sampler):
    """Counts votes of torch networks on the CPU.

    Networks take (rows, channels, height, width) in [0, 1] units and give ``outputs`` logits;
    images have shape (height, width, channels), for ``integer`` noise on the 1/255 grid.
    ``threads`` batches are in work at once, by default one per core. In ``bf16`` weights and
    activations are rounded, and logits are compared in float32.
    """

    name = "torch"

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
        noise: str = "gaussian",
    ) -> None:
        positive_integer("batch_size", batch_size)
        self._on_grid = one_of("noise", noise, NOISES) == "integer"
        self.shape, self.seed, self.attempt, self.batch_size = shape, seed, attempt, batch_size
        self.threads = thread_count(threads)
        self._outputs, self._dtype = dict(outputs), dtype_of(precision)
        self._images: dict[int, NDArray[np.float32]] = {}
        self._pool = ThreadPoolExecutor(self.threads, initializer=one_thread)
        keep_freed_memory()
        self._networks = {name: self._ready(name, network) for name, network in networks.items()}

    @property
    def capacity(self) -> int:
        """Rows that give every thread a few full batches per call."""
        return self.batch_size * self.threads * BATCHES_PER_CALL

    def load(self, slot: int, image: NDArray[np.float32]) -> None:
        """Put an image, float32, shape (height, width, channels), into a slot."""
        check_shape(image, self.shape)
        values = np.ascontiguousarray(image, np.float32)
        self._images[slot] = grid_steps(values) if self._on_grid else values

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        """Votes per segment, shape (segments, classes + 1); the last column is invalid votes."""
        rows, bins = unroll(segments), self._outputs[model] + 1
        votes = np.empty(len(rows), np.int64)

        def work(thread: int) -> None:
            step = self.batch_size
            for start in range(thread * step, len(rows), self.threads * step):
                votes[start : start + step] = self._votes(model, rows[start : start + step])

        list(self._pool.map(work, range(self.threads)))
        flat = np.bincount(rows["segment"] * bins + votes, minlength=len(segments) * bins)
        return flat.reshape(len(segments), bins)

    def close(self) -> None:
        """Stop the worker threads."""
        self._pool.shutdown()

    def _ready(self, model: str, network: torch.nn.Module) -> torch.nn.Module:
        """What runs the network, proved on one of the threads that will run it."""
        shape = (self.batch_size, *self.shape)

        def make() -> torch.nn.Module:
            faster = [("folded", lambda: folded_network(network, self._dtype, shape))]
            batch = noisy(self.batch_size, self.shape).to(self._dtype)
            return first_proved(model, network, batch, faster)

        return self._pool.submit(make).result()

    def _votes(self, model: str, rows: NDArray[np.void]) -> NDArray[np.int64]:
        """Class of each row, or the number of classes where a logit is not finite."""
        batch = np.zeros((self.batch_size, *self.shape), np.float32)
        batch[: len(rows)] = self._noisy(rows)
        with torch.inference_mode():
            noisy = torch.from_numpy(batch).permute(0, 3, 1, 2).to(self._dtype)
            logits = self._networks[model](noisy)[: len(rows)].float().numpy()
        if logits.shape != (len(rows), self._outputs[model]):
            rule = f"must return {self._outputs[model]} logits per row"
            raise ArgumentError(model, rule, logits.shape)
        return row_votes(logits)

    def _noisy(self, rows: NDArray[np.void]) -> NDArray[np.float32]:
        """What the network gets, shape (rows, height, width, channels)."""
        word3 = rows["stream"] | np.uint64(counter_word3(0, self.attempt))
        slots, which = np.unique(rows["slot"], return_inverse=True)
        images = np.stack([self._images[int(slot)] for slot in slots])[which]
        counters = (self.seed, rows["image_id"], word3, rows["sample"])
        if self._on_grid:
            steps = integer_rows(*counters, rows["sigma"], self.shape)
            return unit_of_grid(images.astype(np.int32) + steps)
        noise = normal_rows(*counters, self.shape)
        noise *= rows["sigma"].astype(np.float32)[:, None, None, None]
        images += noise
        return images


def dtype_of(precision: str) -> torch.dtype:
    """The torch type of a precision; raises `ArgumentError` if it is unknown."""
    return PRECISIONS[one_of("precision", precision, tuple(PRECISIONS))]


def one_thread() -> None:
    """Make PyTorch run the calling thread's operators on that thread alone."""
    torch.set_num_threads(1)
