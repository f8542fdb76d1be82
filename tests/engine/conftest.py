from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.folder import read_bundle, save_bundle


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
