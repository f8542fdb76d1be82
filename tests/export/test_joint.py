"""Deployments with joint votes: the engine's certificates and answers, from one network of two."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings
from dualsmooth.export.certifier import OnnxCertifier
from dualsmooth.export.check.deployment import check_deployment
from dualsmooth.export.check.finding import table
from dualsmooth.export.deployment import INDEX, Terms, read_deployment
from dualsmooth.export.write import export_bundle

IMAGES = load_images("digits").images[:4]


@pytest.fixture(scope="module")
def joint(wavering: Bundle) -> Bundle:
    """The wavering bundle with a selector that classifies, too."""
    torch.manual_seed(11)
    inner = {"widths": [4], "hidden": 8, "num_classes": 11}
    kwargs: dict[str, object] = {"architecture": "small_convnet", "kwargs": inner, "joint": True}
    kwargs |= {"points": {"balanced": [-9.0, -0.02]}, "prefer": "balanced"}
    selector = create("ordered_score", kwargs).eval()
    image = torch.from_numpy(unit_float(IMAGES[0])).permute(2, 0, 1)
    with torch.no_grad():
        outputs = selector.network(image + 0.5 * torch.randn(64, 1, 8, 8))  # type: ignore[operator]
        list(selector.parameters())[-1].sub_(outputs.mean(0))
    network = network_from_module(selector, "ordered_score", kwargs)
    return dataclasses.replace(wavering, networks={**wavering.networks, "selector": network})


@pytest.fixture(scope="module")
def folder(joint: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("deployments") / "joint"
    export_bundle(joint, made, Terms("dual", n0=20, n=150))
    return made


def test_a_faithful_export_passes(joint: Bundle, folder: Path, deployed: Path) -> None:
    found = check_deployment(read_deployment(folder), joint, IMAGES, threads=1)
    assert all(finding.passed for finding in found), table(found)
    assert read_deployment(folder).bundle.joint
    assert "joint" not in json.loads((deployed / INDEX).read_text())  # as they always were


@pytest.mark.parametrize("budget", [Budget.fixed(20, 150), Budget.decide((0.05,), 20, 300)],
                         ids=lambda budget: budget.kind)  # fmt: skip
def test_certificates_are_the_engine_s(joint: Bundle, folder: Path, budget: Budget) -> None:
    settings = Settings(budget, 0.001, 3, 1, "cpu", "fp32", threads=1)
    with Session.open(DualSmoothing(joint), settings) as session:
        engine = {c.image_id: c for c in session.certify(IMAGES)}
        answers = dict(session.predict(IMAGES))
    assert {0.25, 0.5} == {c.sigma for c in engine.values()}
    with OnnxCertifier(folder, seed=3, attempt=1, threads=1) as certifier:
        for i, image in enumerate(IMAGES):
            found = certifier.certify(image, image_id=i, budget=budget)
            assert found.counts == engine[i].counts
            assert (found.predicted, found.radius) == (engine[i].predicted, engine[i].radius)
            assert certifier.predict(image, image_id=i) == answers[i]
