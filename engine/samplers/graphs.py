"""Capture of passes: one graph per network and batch bucket, with the backend chosen on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from dualsmooth.engine.backends import AUTO, AUTOMATIC, Tried, backend_of_each
from dualsmooth.engine.errors import ArgumentError, DualSmoothError, SamplerError, reason_of
from dualsmooth.engine.models.rows import same
from dualsmooth.engine.samplers.calibrate import AGREEMENT_LOST, Judge, fastest
from dualsmooth.engine.samplers.passes import Inputs, Network, build, reproducible
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.samplers.stream import DeviceStream
from dualsmooth.engine.samplers.tables import COLUMNS, device_rows, fill
from dualsmooth.kernels.reference import vote

SMALLEST_BUCKET, BUCKET_RATIO = 64, 4
SAMPLE_SIGMA, SAMPLE_IMAGES = 0.25, 8


@dataclass(frozen=True, slots=True)
class Captured:
    """A network's graphs: rows of a bucket and what enqueues its graph, smallest bucket first.

    Votes go to ``counts``, int64 [segments, classes + 1]; ``tried`` is what ``auto`` found.
    """

    backend: str
    counts: torch.Tensor
    replays: tuple[tuple[int, Callable[[], None]], ...]
    tried: Tried

    def replay(self, rows: int) -> None:
        """Enqueue the smallest graph that holds this many rows."""
        next(run for bucket, run in self.replays if bucket >= rows)()


def buckets(batch: int) -> list[int]:
    """Batch shapes to capture, largest first, so that smaller ones fit into its memory."""
    sizes = [batch]
    while sizes[-1] // BUCKET_RATIO >= SMALLEST_BUCKET:
        sizes.append(sizes[-1] // BUCKET_RATIO)
    return sizes


@dataclass(frozen=True, slots=True)
class Capturer:
    """Makes graphs over the static tensors of a sampler.

    They read rows from ``table``, int32 [6, batch], and vote into ``segments`` histograms; with
    integer noise level 0 of the inputs is SAMPLE_SIGMA.
    """

    stream: DeviceStream
    inputs: Inputs
    table: torch.Tensor
    dtype: torch.dtype
    segments: int

    def capture(
        self, networks: Mapping[str, torch.nn.Module], outputs: Mapping[str, int], backend: str
    ) -> dict[str, Captured]:
        """Capture every network; see `CudaSampler` for the arguments and errors."""
        wanted = backend_of_each(backend, list(networks))
        self._sample()
        with reproducible():
            captured = {
                model: self._network(model, network, outputs[model], wanted[model])
                for model, network in networks.items()
            }
        self.stream.zero(self.inputs.images)
        return captured

    def _sample(self) -> None:
        """Put noise of random images, dark to bright, into the table, to check networks with."""
        slots, batch = self.inputs.images, self.table.shape[1]
        count = min(len(slots), SAMPLE_IMAGES, batch)
        pixels = torch.rand(count, *slots.shape[1:], generator=torch.Generator().manual_seed(0))
        pixels *= torch.linspace(1, 0, count + 1)[:-1, None, None, None]
        ends = [batch * i // count for i in range(count + 1)]
        segments = [
            Segment(slot, slot, SAMPLE_SIGMA, 0, 0, ends[slot + 1] - ends[slot])
            for slot in range(count)
        ]
        tables = np.empty((1, *self.table.shape), np.int32)
        on_grid = self.inputs.tables is not None
        fill(tables, segments, 0, [0] * count if on_grid else None)
        self.stream.run(lambda: slots[:count].copy_(pixels * (255.0 if on_grid else 1.0)))
        self.stream.run(lambda: self.table.copy_(torch.from_numpy(tables[0])))

    def _network(
        self, model: str, network: torch.nn.Module, classes: int, backend: str
    ) -> Captured:
        counts = self.stream.zeros(self.segments, classes + 1, dtype=torch.int64)
        full, *smaller = buckets(self.table.shape[1])
        judge = self._judge(model, network, classes)
        tried: Tried = {}
        if backend == AUTO:
            tried, built, replay = self._choose(model, network, counts, judge)
            backend = next(iter(tried))
        else:
            built = self._build(backend, network)
            self._scores(model, built, judge)
            replay, backend = self._replay(built, full, counts), built.name or backend
        replays = [(full, replay)]
        replays += [(s, self._replay(built, s, counts)) for s in smaller if built.any_shape]
        return Captured(backend, counts, tuple(reversed(replays)), tried)

    def _judge(self, model: str, network: torch.nn.Module, classes: int) -> Judge:
        """What eager PyTorch says of the sampled batch."""
        eager, truth = (
            self._plain_scores(model, self._build("eager", network, dtype), classes)
            for dtype in (self.dtype, torch.float32)
        )
        return Judge(eager, truth)

    def _choose(
        self, model: str, network: torch.nn.Module, counts: torch.Tensor, judge: Judge
    ) -> tuple[Tried, Network, Callable[[], None]]:
        """The fastest backend that can run the network, row by row, as well as eager PyTorch.

        Returns what was tried, the fastest first, the network as that runs it, and the graph of a
        full batch.
        """
        batch = self.table.shape[1]
        built: dict[str, Network] = {}
        passes: dict[str, Callable[[], None]] = {}
        refused: dict[str, str] = {}
        for name in AUTOMATIC:
            try:
                candidate = self._build(name, network)
                name = candidate.name or name
                if why := judge.refusal(self._scores(model, candidate, judge)):
                    refused[name] = why
                    continue
                passes[name] = self._replay(candidate, batch, counts)
                built[name] = candidate
            except Exception as error:  # libraries fail in many ways; what failed is told below
                ours = isinstance(error, DualSmoothError)
                refused[name] = str(error) if ours else reason_of(error)
        if not built:
            reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
            raise SamplerError(f"{model}: no backend can run it; {reasons}")
        times = fastest(passes, self.stream.seconds)
        chosen = next(iter(times))
        return {**times, **refused}, built[chosen], passes[chosen]

    def _build(
        self, backend: str, network: torch.nn.Module, dtype: torch.dtype | None = None
    ) -> Network:
        batch = self.table.shape[1]
        return self.stream.run(
            lambda: build(backend, network, dtype or self.dtype, self.inputs, batch, self._race)
        )

    def _race(self, calls: Mapping[str, Callable[[], None]]) -> dict[str, float]:
        """Seconds of each call as part of a graph."""
        graphs = {name: self.stream.capture(call) for name, call in calls.items()}
        return fastest(graphs, self.stream.seconds)

    def _replay(self, built: Network, size: int, counts: torch.Tensor) -> Callable[[], None]:
        rows = device_rows(self.table, size)
        return self.stream.capture(partial(built.votes, self.inputs, rows, counts))

    def _plain_scores(self, model: str, built: Network, classes: int) -> torch.Tensor:
        rows = device_rows(self.table, self.table.shape[1])
        scores = self.stream.run(lambda: built.scores(self.inputs, rows))
        if scores.shape != (len(rows), classes):
            raise ArgumentError(model, f"must return {classes} logits per row", tuple(scores.shape))
        return scores

    def _scores(self, model: str, built: Network, judge: Judge) -> torch.Tensor:
        """Logits of the sampled batch: the network's own, and no bit depends on other rows."""
        scores = self._plain_scores(model, built, judge.eager.shape[1])
        mates = self.table.clone()
        mates[COLUMNS.index("sample"), 1::2] += 1
        beside = self.stream.run(
            lambda: built.scores(self.inputs, device_rows(mates, mates.shape[1]))
        )
        reverse = device_rows(self.table.flip(1), self.table.shape[1])
        backward = self.stream.run(lambda: built.scores(self.inputs, reverse))
        if not same(scores[::2], beside[::2]):
            raise SamplerError(
                f"{model}: a row's logits must not depend on the other rows of its batch; received "
                "other ones beside other samples (take batch statistics out of the network)"
            )
        if not same(scores, backward.flip(0)):
            raise SamplerError(
                f"{model}: a row's logits must not depend on its place in the batch; received "
                "other ones in reverse order (try another --backend or --batch-size)"
            )
        if why := judge.fault(scores):
            raise SamplerError(
                f"{model}: a backend must give the network's logits up to rounding; received "
                f"{why} (try another --backend)"
            )
        self._check_votes(model, built, scores)
        return scores

    def _check_votes(self, model: str, built: Network, scores: torch.Tensor) -> None:
        """Counts of the sampled batch are those of its logits, but for near ties."""
        rows = device_rows(self.table, len(scores))
        found, wanted = (
            self.stream.zeros(self.segments, scores.shape[1] + 1, dtype=torch.int64)
            for _ in range(2)
        )
        self.stream.run(lambda: built.votes(self.inputs, rows, found))
        self.stream.run(lambda: vote(scores, rows.segment, wanted))
        moved = int((found - wanted).abs().sum())
        if found.sum() != wanted.sum() or moved > 2 * max(1, AGREEMENT_LOST * len(scores)):
            raise SamplerError(
                f"{model}: a backend must count the votes of its own logits; received "
                f"{moved} counts of {len(scores)} votes that differ (try another --backend)"
            )
