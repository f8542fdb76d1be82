import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate, Claim, Stamp
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.folder import read_bundle, save_bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

STAMP = Stamp(
    method="fixed(0.25)", seed=0, attempt=0, bundle="", precision="", device="", sampler="",
    batch_size=0,
)  # fmt: skip
CLAIM = Claim.of(3, 0.123456789, 0.25, AlphaLedger("single", 1e-3, {"classifier": 1e-3}))
CERTIFICATE = Certificate.of(CLAIM, STAMP, 0, 3, (), 0.0)


def timeless(folder: Path) -> list[str]:
    """Lines of a run's log, times aside."""
    lines = (folder / "certificates.jsonl").read_text().splitlines()
    return [line[: line.rindex('"seconds"')] for line in lines]


def without_times(certificates: Iterable[Certificate]) -> list[Certificate]:
    return [replace(certificate, seconds=0.0) for certificate in certificates]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """What takes longer fails."""

    def hung(*_: object) -> None:
        raise TimeoutError("waits for good")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="session")
def data() -> ImageSet:
    return load_images("digits")


@pytest.fixture(scope="session")
def made(bundle: Bundle, data: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, to be copied."""
    folder = tmp_path_factory.mktemp("made") / "run"
    settings = Settings(Budget.fixed(10, 100), precision="fp32", device="cpu")
    method = FixedSmoothing(bundle, 0.25)
    certify_run(method, data, [0, 1, 2], settings, folder, make=FakeSampler)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder for digits: a selector and one classifier, untrained but decisive."""
    networks = {}
    for role, outputs in (("selector", 3), ("classifier", 10)):
        torch.manual_seed(outputs)
        kwargs = {"widths": [4], "hidden": 8, "num_classes": outputs}
        module = create("small_convnet", kwargs).eval()
        with torch.no_grad():
            list(module.parameters())[-1].add_(torch.linspace(-0.3, 0.3, outputs))
        networks[role] = network_from_module(module, "small_convnet", kwargs)
    bundle = Bundle.from_modules(
        networks, num_classes=10, input_shape=(8, 8, 1), sigmas=(0.12, 0.25, 0.5), tau=0.5,
        name="tiny",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    save_bundle(bundle, folder)
    return folder


@pytest.fixture(scope="session")
def ordered_bundle(tiny_bundle: Path) -> Bundle:
    """The tiny bundle with a selector of one score and three operating points."""
    return with_score(tiny_bundle, "ordered", seed=7, outputs=1)


@pytest.fixture(scope="session")
def joint_bundle(tiny_bundle: Path) -> Bundle:
    """The tiny bundle with a selector that classifies at 0.5, too, and three operating points."""
    return with_score(tiny_bundle, "joint", seed=8, outputs=11, joint=True)


def with_score(folder: Path, name: str, seed: int, outputs: int, **votes: bool) -> Bundle:
    torch.manual_seed(seed)
    inner = {"widths": [4], "hidden": 8, "num_classes": outputs}
    points = {"small": [0.1, 0.3], "balanced": [-0.1, 0.1], "large": [-0.4, -0.2]}
    kwargs: dict[str, object] = {"architecture": "small_convnet", "kwargs": inner}
    kwargs |= {"points": points, "prefer": "balanced", **votes}
    selector = create("ordered_score", kwargs).eval()
    bundle = read_bundle(folder)
    networks = {
        **bundle.networks,
        "selector": network_from_module(selector, "ordered_score", kwargs),
    }
    return replace(bundle, name=name, networks=networks)
