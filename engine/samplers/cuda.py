"""Sampler for CUDA devices: each network's whole pass is one captured graph.

Noise, network and votes of a batch read static tables and are replayed, so a batch costs the host
a few launches. Tables of several batches go to the device in one copy from pinned memory, and
counts come back in one, so the host waits for nothing but counts it needs. Two such sets of
buffers are in use by turns, and a set is written again only after its votes have been read.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.backends import sampler_name
from dualsmooth.engine.checks import one_of, positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import check_shape, grid_steps
from dualsmooth.engine.noise.stream import counter_word3
from dualsmooth.engine.samplers.eager import dtype_of
from dualsmooth.engine.samplers.graphs import SAMPLE_SIGMA, Captured, Capturer
from dualsmooth.engine.samplers.inputs import device_steps, host_image
from dualsmooth.engine.samplers.passes import Inputs
from dualsmooth.engine.samplers.sampler import Pending, Sampler, Segment
from dualsmooth.engine.samplers.stream import CudaStream, DeviceStream, Event
from dualsmooth.engine.samplers.tables import COLUMNS, Piece, ThresholdTables, divide, fill
from dualsmooth.engine.settings import NOISES
from dualsmooth.kernels.rows import seed_key

BATCHES = 8
"""Full batches per submission."""

SEGMENTS = 1024
"""Segments per submission."""


class CudaSampler(Sampler):
    """Counts votes of torch networks on a CUDA device; takes what `TorchSampler` takes, and:

    ``backend``: ``fused``, ``onchip`` or ``triton`` (CIFAR ResNets in bfloat16 and Gaussian noise
    only; they run partial batches in smaller ones, which changes no vote), ``picked``,
    ``tiledstem``, ``stem``, ``cudnn``, ``compile`` or ``eager``; ``auto`` takes the fastest of
    `dualsmooth.engine.backends.AUTOMATIC` for each network; or ``selector=cudnn,classifier=eager``.
    ``picked`` times layers and is named by what it took: ``picked.stem.cpt``, which times nothing.
    ``slots``: images held at once. ``stream``: by default one of the current device. A network that
    gives a row other logits at another place in the batch is a `SamplerError`.
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
        batch_size: int = 4096,
        precision: str = "bf16",
        backend: str = "auto",
        slots: int = 16,
        stream: DeviceStream | None = None,
        noise: str = "gaussian",
    ) -> None:
        positive_integer("batch_size", batch_size)
        positive_integer("slots", slots)
        self.shape, self.seed, self.batch_size = shape, seed, batch_size
        self._word3 = counter_word3(0, attempt)
        self._stream = stream = CudaStream() if stream is None else stream
        self._grid: ThresholdTables | None = None
        if one_of("noise", noise, NOISES) == "integer":
            self._grid = ThresholdTables(stream)
            self._grid.index(SAMPLE_SIGMA)
        kind = torch.uint8 if self._grid else torch.float32
        images = stream.zeros(slots, *shape, dtype=kind)
        tables = self._grid.tables if self._grid else None
        self._inputs = Inputs(images, seed_key(seed, stream.device), tables)
        self._loading = stream.pinned(slots, *shape, dtype=kind)
        self._loaded: dict[int, Event] = {}
        self._table = stream.zeros(len(COLUMNS), batch_size, dtype=torch.int32)
        self._buffers = [
            _Buffers(stream, batch_size, max(outputs.values()) + 1) for _ in range(self.depth)
        ]
        self._turn = 0
        capturer = Capturer(stream, self._inputs, self._table, dtype_of(precision), SEGMENTS)
        self._networks = capturer.capture(networks, outputs, backend)
        self.name = sampler_name({model: made.backend for model, made in self._networks.items()})
        self.tried = {model: made.tried for model, made in self._networks.items() if made.tried}

    @property
    def capacity(self) -> int:
        """Rows of one submission."""
        return self.batch_size * BATCHES

    def load(self, slot: int, image: NDArray[np.float32] | torch.Tensor) -> None:
        """Put an image, float32, shape (height, width, channels), into a slot.

        A tensor on the device is copied there; its votes may be asked for at once.
        """
        check_shape(image, self.shape)
        if not 0 <= slot < len(self._loading):
            raise ArgumentError("slot", f"must be in [0, {len(self._loading)})", slot)
        if isinstance(image, torch.Tensor) and image.device == self._stream.device:
            values = device_steps(image) if self._grid else image
            self._stream.adopt(values)
            self._stream.copy(self._inputs.images[slot], values)
            return
        image = host_image(image)
        if self._grid:
            image = grid_steps(image)
        if slot in self._loaded:
            self._loaded[slot].wait()
        self._loading[slot].numpy()[...] = image
        self._stream.copy(self._inputs.images[slot], self._loading[slot])
        self._loaded[slot] = self._stream.mark()

    def submit(self, model: str, segments: Sequence[Segment]) -> Pending:
        """Start what `count` does; images may be loaded into other slots meanwhile."""
        captured = self._networks[model]
        pieces = divide(segments, self.capacity, SEGMENTS)
        launched = [self._launch(captured, piece) for piece in pieces]
        votes = np.zeros((len(segments), captured.counts.shape[1]), np.int64)

        def collect() -> NDArray[np.int64]:
            while launched:
                submission = launched.pop(0)
                for (index, _), row in zip(submission.piece, submission.collect(), strict=True):
                    votes[index] += row
            return votes

        return collect

    def close(self) -> None:
        """Wait for the device and let graphs go."""
        self._stream.mark().wait()
        self._networks.clear()

    def _launch(self, captured: Captured, piece: Piece) -> "_Submission":
        stream, buffers = self._stream, self._buffers[self._turn]
        self._turn = (self._turn + 1) % self.depth
        if buffers.submission is not None:
            buffers.submission.collect()
        segments = [segment for _, segment in piece]
        levels = [self._grid.index(s.sigma) for s in segments] if self._grid else None
        sizes = fill(buffers.words, segments, self._word3, levels)
        used = slice(len(sizes))
        stream.copy(buffers.staged[used], buffers.tables[used])
        stream.zero(captured.counts[: len(piece)])
        for table, size in zip(buffers.batches, sizes, strict=False):
            stream.copy(self._table, table)
            captured.replay(size)
        bins = captured.counts.shape[1]
        counts = buffers.counts[: len(piece) * bins].view(len(piece), bins)
        stream.copy(counts, captured.counts[: len(piece)])
        buffers.submission = _Submission(piece, counts, stream.mark())
        return buffers.submission


class _Submission:
    """Votes on their way: read once from pinned memory, and kept."""

    def __init__(self, piece: Piece, counts: torch.Tensor, done: Event) -> None:
        self.piece, self._counts, self._done = piece, counts, done
        self._votes: NDArray[np.int64] | None = None

    def collect(self) -> NDArray[np.int64]:
        """Wait for the device and return votes, shape (segments of the piece, classes + 1)."""
        if self._votes is None:
            self._done.wait()
            self._votes = self._counts.numpy().copy()
        return self._votes


class _Buffers:
    """Memory of one submission: tables on both sides, and counts coming back."""

    def __init__(self, stream: DeviceStream, batch: int, bins: int) -> None:
        size = (BATCHES, len(COLUMNS), batch)
        self.tables = stream.pinned(*size, dtype=torch.int32)
        self.staged = stream.zeros(*size, dtype=torch.int32)
        self.words, self.batches = self.tables.numpy(), list(self.staged)
        self.counts = stream.pinned(SEGMENTS * bins, dtype=torch.int64)
        self.submission: _Submission | None = None
