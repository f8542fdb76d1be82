"""The CUDA sampler on a stream that runs as late as it may; see `conftest.FakeStream`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from dualsmooth.engine.backends import BACKENDS
from dualsmooth.engine.errors import ArgumentError, SamplerError
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers import cuda as cuda_sampler
from dualsmooth.engine.samplers import graphs, passes, tables
from dualsmooth.engine.samplers.cuda import CudaSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.fusion import stem
from dualsmooth.engine.samplers.passes import _resnet_votes
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.samplers.stream import CudaStream
from dualsmooth.kernels import reference
from dualsmooth.kernels.folding import fold_stem

SHAPE, BATCH, CLASSES = (8, 4, 3), 32, {"m": 5, "s": 3}
IMAGES = np.random.default_rng(0).random((6, *SHAPE)).astype(np.float32)


def network(outputs: int) -> torch.nn.Module:
    torch.manual_seed(outputs)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(8 * SHAPE[0] * SHAPE[1], outputs),
    )  # fmt: skip
    return net.eval()


NETWORKS = {name: network(outputs) for name, outputs in CLASSES.items()}

Make = Callable[..., CudaSampler]


@pytest.fixture
def make(fake_stream: type[Any], monkeypatch: pytest.MonkeyPatch) -> Make:
    """Samplers with room for two batches and four segments per submission."""
    monkeypatch.setattr(cuda_sampler, "BATCHES", 2)
    monkeypatch.setattr(cuda_sampler, "SEGMENTS", 4)

    def build(kind: type[CudaSampler] = CudaSampler, /, **options: Any) -> CudaSampler:
        settings: dict[str, Any] = {
            "seed": 7, "batch_size": BATCH, "precision": "fp32", "backend": "eager", "slots": 4,
            "stream": fake_stream(), "networks": NETWORKS, "outputs": CLASSES, "shape": SHAPE,
        } | options  # fmt: skip
        return kind(**settings)

    return build


def segment(image: int, sigma: float, first: int, count: int, slot: int = 0) -> Segment:
    return Segment(slot, 2**32 - 100 + image, sigma, 2 + 16 * (image % 2), first, count)


def expected(model: str, parts: list[tuple[int, Segment]], **options: Any) -> np.ndarray:
    """Votes of the reference sampler for (image, segment) pairs."""
    sampler = TorchSampler(NETWORKS, CLASSES, SHAPE, seed=7, batch_size=BATCH, threads=1, **options)
    votes = []
    for image, part in parts:
        sampler.load(part.slot, IMAGES[image])
        votes.append(sampler.count(model, [part])[0])
    sampler.close()
    return np.stack(votes)


SEGMENTS = [
    segment(0, 0.5, 0, 41, slot=0),
    segment(1, 0.1, 2**32 - 3, 1, slot=1),
    segment(2, 1.0, 7, 177, slot=3),
    segment(0, 0.25, 0, 13, slot=0),
    segment(1, 0.3, 9, 5, slot=1),
    segment(2, 0.3, 9, 64, slot=3),
    segment(2, 0.7, 1, 2, slot=3),
]
PARTS = list(zip((0, 1, 2, 0, 1, 2, 2), SEGMENTS, strict=True))


def loaded(sampler: Any, images: np.ndarray = IMAGES) -> Any:
    for slot, image in ((0, 0), (1, 1), (3, 2)):
        sampler.load(slot, images[image])
    return sampler


@pytest.mark.parametrize("model", CLASSES)
def test_counts_equal_the_reference_sampler(make: Make, model: str) -> None:
    """More rows and more segments than one submission holds."""
    counts = loaded(make()).count(model, SEGMENTS)
    assert_array_equal(counts, expected(model, PARTS))
    assert len({tuple(row) for row in counts}) > 2
    assert loaded(make()).count(model, []).shape == (0, CLASSES[model] + 1)


def test_attempts_change_the_noise(make: Make) -> None:
    counts = loaded(make(attempt=3)).count("m", SEGMENTS)
    assert_array_equal(counts, expected("m", PARTS, attempt=3))
    assert not np.array_equal(counts, expected("m", PARTS))


@pytest.mark.parametrize(("precision", "size"), [("bf16", 2), ("fp32", 4)])
def test_the_network_gets_inputs_of_the_precision(make: Make, precision: str, size: int) -> None:
    class SizeOfInput(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.eye(5)[x.element_size()].expand(len(x), 5)

    networks, outputs = {"m": SizeOfInput()}, {"m": 5}
    sampler = make(networks=networks, outputs=outputs, precision=precision)
    assert sampler.count("m", [segment(0, 0.5, 0, 9)])[0, size] == 9


def stream_of_work(sampler: CudaSampler) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images take turns in two slots while votes of two networks are under way."""
    got, wanted, pending = [], [], []
    for turn in range(12):
        image, slot, model = turn % 6, turn % 2, ("m", "s")[turn % 3 == 0]
        sampler.load(slot, IMAGES[image])
        part = segment(image, 0.2 + 0.05 * turn, turn, 10 + 7 * turn, slot)
        pending.append(sampler.submit(model, [part]))
        wanted.append(expected(model, [(image, part)]))
        if len(pending) == 3:
            got += [votes() for votes in pending]
            pending = []
    return got, wanted


def agree(results: tuple[list[np.ndarray], list[np.ndarray]]) -> bool:
    got, wanted = results
    assert len(got) == len(wanted) == 12
    return all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_images_and_batches_stream_back_to_back(make: Make) -> None:
    assert agree(stream_of_work(make()))


def test_the_host_waits_for_nothing_it_does_not_need(make: Make, fake_stream: type[Any]) -> None:
    stream = fake_stream()
    sampler = make(stream=stream)
    stream.mark().wait()
    before = stream.done
    sampler.load(0, IMAGES[0])
    votes = [sampler.submit("m", [segment(0, 0.5, 0, 64)]) for _ in range(sampler.depth)]
    assert stream.done == before
    assert_array_equal(votes[0](), votes[1]())
    assert_array_equal(votes[1](), votes[1]())


class OneSetOfBuffers(CudaSampler):
    """Wrong: tables and counts are written again while the device still needs them."""

    depth = 1

    def _launch(self, *arguments: Any) -> Any:
        self._buffers[0].submission = None
        return super()._launch(*arguments)


class NoWaitToLoad(CudaSampler):
    """Wrong: pinned memory of an image is written again before it was copied."""

    def load(self, slot: int, image: Any) -> None:
        self._loaded.clear()
        super().load(slot, image)


@pytest.mark.parametrize("kind", [OneSetOfBuffers, NoWaitToLoad])
def test_broken_variants_give_wrong_counts(make: Make, kind: type[CudaSampler]) -> None:
    assert not agree(stream_of_work(make(kind)))


def test_a_network_is_captured_once_per_bucket(make: Make, fake_stream: type[Any]) -> None:
    stream = fake_stream()
    sampler = loaded(make(stream=stream))
    assert stream.captures == len(NETWORKS)
    sampler.count("m", SEGMENTS)
    assert stream.captures == len(NETWORKS)


def resnet() -> torch.nn.Module:
    torch.manual_seed(2)
    return create("cifar_resnet20", {}).eval()


def resnet_options(backend: str, **options: Any) -> dict[str, Any]:
    networks = {"m": resnet()}
    return {"networks": networks, "outputs": {"m": 10}, "shape": SHAPE, "backend": backend,
            "batch_size": 16, "precision": "bf16"} | options  # fmt: skip


def test_triton_networks_run_partial_batches_in_smaller_buckets(
    make: Make, fake_stream: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels' references stand in for them; votes are eager PyTorch's but for near ties."""
    monkeypatch.setattr(graphs, "SMALLEST_BUCKET", 4)
    stream, votes = fake_stream(), {}
    for backend in ("triton", "eager"):
        sampler = make(**resnet_options(backend, stream=stream))
        assert sampler.name == f"cuda:{backend}"
        sampler.load(0, IMAGES[0])
        votes[backend] = [sampler.count("m", [segment(0, 0.5, 0, n)])[0] for n in (3, 16, 18)]
    assert stream.captures == 2 + 1
    assert sum(np.abs(a - b).sum() for a, b in zip(*votes.values(), strict=True)) <= 4
    ran: list[int] = []
    replays = tuple((size, partial(ran.append, size)) for size in (4, 16))
    captured = graphs.Captured("triton", torch.zeros(1, 1), replays, {})
    for rows in (1, 4, 5, 16):
        captured.replay(rows)
    assert ran == [4, 4, 16, 16]


def test_stages_on_chip_cast_the_votes_of_the_plain_blocks(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the device has no room for them, a hint names what to do."""
    options: dict[str, Any] = {"shape": (32, 32, 3), "batch_size": 4}
    with pytest.raises(ArgumentError, match=r"must not be onchip for this device.* CuPy"):
        make(**resnet_options("onchip", **options))
    monkeypatch.setattr(passes, "shared_memory", lambda device: 227 * 1024)
    image, votes = np.random.default_rng(3).random((32, 32, 3)).astype(np.float32), []
    for backend in ("fused", "onchip", "triton"):
        sampler = make(**resnet_options(backend, **options))
        assert sampler.name == f"cuda:{backend}"
        sampler.load(0, image)
        votes.append(sampler.count("m", [segment(0, 0.5, 0, 6)]))
    assert_array_equal(votes[1], votes[2])
    assert np.abs(votes[0] - votes[2]).sum() <= 2  # a near tie
    for wrong, message in (
        ({"precision": "fp32"}, "must not be onchip for this precision.*float32.*use cudnn"),
        ({"shape": (32, 16, 3)}, "must not be onchip for this network.*16x32"),
        ({"noise": "integer"}, "must not be onchip with integer noise"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make(**resnet_options("onchip", **options | wrong))


def test_our_stem_before_a_library_casts_the_networks_votes(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for near ties; a stem without its mean is noticed."""
    monkeypatch.setattr(passes, "fuse_for_cudnn", lambda module, example: module)  # needs a device
    options = resnet_options("stem", precision="bf16")
    sampler, votes = make(**options), []
    assert sampler.name == "cuda:stem"
    for made in (sampler, make(**options | {"backend": "eager"})):
        made.load(0, IMAGES[0])
        votes.append(made.count("m", [segment(0, 0.5, 0, 60)]))
    assert np.abs(votes[0] - votes[1]).sum() <= 4
    for wrong, message in (
        ({"precision": "fp32"}, "must not be stem but for bfloat16.*float32.*use cudnn"),
        ({"noise": "integer"}, "must not be stem but for .*integer noise"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make(**options | wrong)
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(96, 10))
    others: dict[str, Any] = {"networks": {"m": flat}}
    for backend, given, message in (
        ("stem", others, "Sequential: it begins with Flatten.*have networks that begin"),
        ("tiledstem", {}, "CifarResNet on cpu .its first convolution fits stem only"),
    ):
        with pytest.raises(ArgumentError, match=f"must not be {backend} for this net.*{message}"):
            make(**options | {"backend": backend} | given)

    def meanless(weight: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, *rest: Any) -> Any:
        return fold_stem(weight, bias, 0 * mean, *rest, dtype=torch.bfloat16)

    monkeypatch.setattr(stem, "fold_stem", lambda *args, **options: meanless(*args))
    with pytest.raises(SamplerError, match="must give the network's logits up to rounding"):
        make(**options)


def test_a_backend_that_counts_other_votes_than_its_logits_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotated(logits: torch.Tensor, segment: torch.Tensor, counts: torch.Tensor) -> None:
        reference.vote(logits.roll(1, 1), segment, counts)

    monkeypatch.setattr("dualsmooth.kernels.ops.vote_logits", rotated)
    with pytest.raises(SamplerError, match=r"must count the votes of its own logits; received \d+"):
        make()


def test_shapes_are_learnt_from_a_row_in_the_memory_of_a_device() -> None:
    """A batch of ResNet-50's pooled activations took 1.6 GB of the host and of the device."""
    made = passes._example((512, 4, 5, 3), torch.device("meta"))
    assert made.shape == (512, 3, 4, 5)
    assert made.untyped_storage().nbytes() == 4 * 4 * 5 * 3


def test_buckets_shrink_from_the_full_batch() -> None:
    assert graphs.buckets(4096) == [4096, 1024, 256, 64]
    assert graphs.buckets(63) == [63]


@pytest.mark.parametrize("quickest", ["triton", "eager"])
def test_auto_takes_the_fastest_backend_that_works(
    make: Make, fake_stream: type[Any], quickest: str
) -> None:
    """cuDNN does not work without a GPU; candidates are timed in a fixed order."""

    class Clock(fake_stream):  # type: ignore[misc]
        calls = 0

        def seconds(self, work: Callable[[], None]) -> float:
            self.calls += 1
            return 1.0 if self.calls % 2 == (quickest == "triton") else 2.0

    sampler = make(**resnet_options("auto", stream=Clock()))
    assert sampler.name == f"cuda:{quickest}"


def test_auto_leaves_out_a_backend_that_cannot_be_captured(
    make: Make, fake_stream: type[Any]
) -> None:
    """The chosen pass is captured once, for the choice and for the run."""

    class Refuses(fake_stream):  # type: ignore[misc]
        def capture(self, work: Any) -> Callable[[], None]:
            if work.func is _resnet_votes:
                raise RuntimeError("operation not permitted when stream is capturing")
            replay: Callable[[], None] = super().capture(work)
            return replay

    stream = Refuses()
    assert make(**resnet_options("auto", stream=stream)).name == "cuda:eager"
    assert stream.captures == 1


def test_networks_may_have_backends_of_their_own(make: Make) -> None:
    networks, outputs = {"m": resnet(), "s": NETWORKS["s"]}, {"m": 10, "s": 3}
    backend = "m=triton,s=eager"
    sampler = make(networks=networks, outputs=outputs, backend=backend, precision="bf16")
    assert sampler.name == "cuda:m=triton,s=eager"
    with pytest.raises(ArgumentError, match=r"^backend must name m, s"):
        make(networks=networks, outputs=outputs, backend="m=triton")


class BatchStatistics(torch.nn.Module):
    """Every row's logits depend on the rows before it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :5].cumsum(0)


class PlaceStatistics(torch.nn.Module):
    """A row's logits depend on where it stands, not on the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :5] + torch.arange(len(x))[:, None]


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (BatchStatistics(), "must not depend on the other rows"),
        (PlaceStatistics(), "must not depend on its place in the batch"),
    ],
)
def test_votes_that_depend_on_the_batch_are_refused(
    make: Make, backend: str, network: torch.nn.Module, message: str
) -> None:
    with pytest.raises(SamplerError, match=message):
        make(networks={"m": network}, outputs={"m": 5}, backend=backend)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must"),
        ({"slots": 0}, "slots must"),
        ({"precision": "fp8"}, "precision must"),
        ({"backend": "magic"}, "backend must be one of auto, fused, onchip"),
        ({"backend": "triton"}, "backend must not be triton for this network; received Sequential"),
        ({"outputs": {"m": 4, "s": 3}}, "m must return 4 logits per row"),
    ],
)
def test_bad_options(make: Make, options: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        make(**options)


def test_bad_images_and_slots_are_named(make: Make) -> None:
    sampler = make()
    with pytest.raises(ArgumentError, match=r"^image must have shape \(8, 4, 3\)"):
        sampler.load(0, np.zeros((3, 8, 4), np.float32))
    with pytest.raises(ArgumentError, match=r"^slot must be in \[0, 4\)"):
        sampler.load(4, IMAGES[0])


def test_device_tensors_are_loaded_without_the_host(make: Make) -> None:
    sampler = make()
    sampler.load(0, torch.from_numpy(IMAGES[0]))
    part = segment(0, 0.5, 0, 41)
    assert_array_equal(sampler.count("m", [part]), expected("m", [(0, part)]))
    sampler.close()


GRID = np.random.default_rng(1).integers(0, 256, (6, *SHAPE)).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_integer_noise_equals_the_reference_sampler(make: Make, precision: str) -> None:
    """More sigmas than the sample's, new ones met while votes are under way; uint8 images."""
    options: dict[str, Any] = {"noise": "integer", "precision": precision}
    sampler = loaded(make(**options), GRID)
    truth = TorchSampler(NETWORKS, CLASSES, SHAPE, seed=7, batch_size=BATCH, threads=1, **options)
    loaded(truth, GRID)
    first = sampler.submit("m", SEGMENTS[:2])
    rest = sampler.submit("m", SEGMENTS[2:])
    votes = np.concatenate([first(), rest()])
    assert_array_equal(votes, truth.count("m", SEGMENTS))
    assert not np.array_equal(votes, loaded(make(precision=precision), GRID).count("m", SEGMENTS))
    sampler.load(0, torch.from_numpy(GRID[4]))
    truth.load(0, GRID[4])
    assert_array_equal(sampler.count("m", SEGMENTS[:1]), truth.count("m", SEGMENTS[:1]))


def test_limits_of_integer_noise_are_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LEVELS", 2)
    sampler = loaded(make(noise="integer"), GRID)
    with pytest.raises(ArgumentError, match=r"^sigma must be at most 1\.75"):
        sampler.count("m", [segment(0, 1.9, 0, 3)])
    sampler.count("m", [segment(0, 0.1, 0, 3)])
    with pytest.raises(ArgumentError, match=r"^sigma must be one of at most 2 noise levels"):
        sampler.count("m", [segment(0, 0.3, 0, 3)])
    with pytest.raises(ArgumentError, match=r"^images must lie on the grid"):
        sampler.load(0, IMAGES[0])
    with pytest.raises(ArgumentError, match=r"^backend must not be triton with integer noise"):
        make(**resnet_options("triton", noise="integer"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_integer_noise_on_a_device(make: Make) -> None:
    """Noise is exact on every device; only near ties may differ from the CPU."""
    options = resnet_options("auto", stream=CudaStream(), batch_size=64, noise="integer")
    sampler = loaded(make(**options), GRID)
    networks, outputs = options["networks"], options["outputs"]
    truth = TorchSampler(networks, outputs, SHAPE, seed=7, batch_size=64, noise="integer")
    loaded(truth, GRID)
    parts = [segment(0, 0.5, 0, 400), segment(1, 0.3, 9, 500, slot=1)]
    assert np.abs(sampler.count("m", parts) - truth.count("m", parts)).sum() <= 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", [*BACKENDS["cuda"], "auto"])
def test_counts_on_a_device(make: Make, backend: str) -> None:
    """Only near ties may differ from the reference on the CPU; nothing may on a rerun.

    Triton's convolutions compile for a minute each in float32, so bf16 moves more ties there.
    """
    low = backend not in ("cudnn", "compile", "eager")
    precision, ties = ("bf16", 90) if low else ("fp32", 20)
    shape = (32, 32, 3) if backend in ("fused", "onchip") else SHAPE
    options = resnet_options(
        backend, stream=CudaStream(), batch_size=64, precision=precision, shape=shape
    )
    sampler, parts = make(**options), [segment(0, 0.5, 0, 400), segment(1, 0.3, 9, 500, slot=1)]
    truth = TorchSampler(options["networks"], options["outputs"], shape, seed=7, batch_size=64)
    images = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    for slot in (0, 1):
        sampler.load(slot, images[slot])
        truth.load(slot, images[slot])
    votes = sampler.count("m", parts)
    assert_array_equal(votes.sum(1), [400, 500])
    assert np.abs(votes - truth.count("m", parts)).sum() <= ties
    assert_array_equal(sampler.count("m", parts[::-1])[::-1], votes)
    truth.close()
