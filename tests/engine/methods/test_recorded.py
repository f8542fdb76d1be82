"""Runs of every method survive an audit; altered statements about the image do not."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

METHODS: dict[str, dict[str, object]] = {
    "fixed": {"sigma": 0.25},
    "runner-up": {"sigma": 0.25, "runner_up": True},
    "cascade": {"method": "cascade", "threshold": 0.6},
    "variational": {"method": "variational"},
    "anchor": {"method": "insta"},
    "memory": {"method": "insta", "region": "memory"},
    "quasiconcave": {"method": "insta", "region": "memory", "search": "quasiconcave"},
    "semielastic": {"method": "semielastic", "sigma": 0.25, "references": "digits:train"},
}


def run(bundle: Path, folder: Path, name: str) -> Path:
    options = dict(METHODS[name])
    if name == "anchor":
        file = folder / "anchors.npz"
        Anchors(load_images("digits:train").images[:30], [0.12, 0.5] * 15).save(file)
        options["anchors"] = file
    method = choose_method(load_bundle(bundle), **options)  # type: ignore[arg-type]
    slots = 1 if method.serial else 4
    settings = Settings(Budget.fixed(20, 200), 0.01, slots=slots, device="cpu")
    data, out = load_images("digits"), folder / "run"
    certify_run(method, data, list(range(5)), settings, out, make=FakeSampler)
    return out


@pytest.mark.parametrize("name", METHODS)
def test_an_honest_run_is_clean(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    assert audit(run(tiny_bundle, tmp_path, name)).findings == []


@pytest.mark.parametrize("name", ["anchor", "semielastic", "memory"])
def test_another_sigma_or_a_wider_radius_is_found(
    tiny_bundle: Path, tmp_path: Path, name: str
) -> None:
    folder = run(tiny_bundle, tmp_path, name)
    log = folder / "certificates.jsonl"
    lines = log.read_text().splitlines()
    certificates = [Certificate.from_json(line) for line in lines]
    first = next(c for c in certificates if c.predicted is not None)
    assert first.sigma is not None
    for change in ({"sigma": 2 * first.sigma}, {"radius": float(np.nextafter(first.radius, 9))}):
        forged = dataclasses.replace(first, **change).to_json()  # type: ignore[arg-type]
        kept = [forged if json.loads(old)["image_id"] == first.image_id else old for old in lines]
        log.write_text("\n".join(kept) + "\n")
        assert audit(folder).findings
