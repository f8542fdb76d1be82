import json

import pytest
import torch

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.images import as_unit_float
from dualsmooth.engine.models.sources.load import PRETRAINED, bundled_names, load_bundle
from dualsmooth.engine.records import sha256_of
from dualsmooth.engine.train.recipes import DIGITS_DUAL, FASHION_DUAL

FOLDER = PRETRAINED / "digits-dual"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="digits-dual is not in this checkout: dualsmooth train digits-dual"
)


def test_the_bundled_model_is_found_by_name() -> None:
    assert "digits-dual" in bundled_names()
    bundle = load_bundle("digits-dual")
    assert (bundle.name, bundle.input_shape, bundle.num_classes) == ("digits-dual", (8, 8, 1), 10)
    assert (bundle.sigmas, bundle.tau) == ((0.12, 0.25, 0.5), 0.5)
    assert bundle.sigmas == tuple(expert.sigma for expert in DIGITS_DUAL.experts)


@pytest.mark.parametrize(
    ("name", "most"), [("digits-dual", 1_000_000), ("fashion-dual", 2_000_000)]
)
def test_digests_are_those_of_the_files(name: str, most: int) -> None:
    folder = PRETRAINED / name
    index = json.loads((folder / "bundle.json").read_text())
    for entry in index["networks"].values():
        assert sha256_of((folder / entry["weights"]).read_bytes()) == entry["sha256"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < most
    assert (folder / "MODEL_CARD.md").is_file()


def test_the_fashion_model_is_that_of_its_recipe() -> None:
    bundle = load_bundle("fashion-dual")
    assert (bundle.input_shape, bundle.num_classes) == ((28, 28, 1), 10)
    assert (bundle.sigmas, bundle.tau) == (FASHION_DUAL.sigmas, FASHION_DUAL.tau)
    for role in bundle.networks:
        assert bundle.build(role)(torch.rand(2, 1, 28, 28)).isfinite().all()


@pytest.mark.parametrize(("sigma", "least"), [(0.12, 0.94), (0.25, 0.92), (0.5, 0.75)])
def test_accuracy_on_clean_test_images(sigma: float, least: float) -> None:
    digits, bundle = load_images("digits"), load_bundle("digits-dual")
    module = bundle.build(bundle.classifier_at(sigma))
    x = torch.from_numpy(as_unit_float(digits.images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        accuracy = (module(x).argmax(1).numpy() == digits.labels).mean()
    assert accuracy > least
