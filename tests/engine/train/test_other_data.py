"""`dualsmooth train dual --data idx:DIR` on data that no recipe was made for, as they stand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.models.operating_point import at_point, points_of
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.train.radii import noisy_logits
from dualsmooth.engine.train.run import train
from tests.engine.data.test_spec import write_idx


@pytest.mark.slow
def test_the_selector_varies_and_its_points_differ(tmp_path: Path) -> None:
    for split, spec in (("train", "digits:train"), ("t10k", "digits")):
        data = load_images(spec)  # turned on their side and twice as large
        turned = np.rot90(data.images[..., 0], axes=(1, 2)).repeat(2, 1).repeat(2, 2)
        write_idx(tmp_path, turned, data.labels, split)
    train("dual", f"idx:{tmp_path}", tmp_path / "bundle", progress=False)
    bundle = load_bundle(tmp_path / "bundle")
    assert list(points_of(bundle)) == ["small", "balanced", "large"]
    images = load_images(f"idx:{tmp_path}").images[:100]
    x, shares = torch.from_numpy(images.copy()).permute(0, 3, 1, 2) / 255, {}
    for point in points_of(bundle):
        generator = torch.Generator().manual_seed(0)
        module = at_point(bundle, point).build("selector")
        with torch.inference_mode():
            votes = noisy_logits(module, x, 1.0, 50, generator).argmax(-1)
        levels = votes.median(1).values
        shares[point] = one_hot(levels, 3).float().mean(0)
    assert shares["small"][2] < shares["large"][2] - 0.2
    assert shares["small"].max() < 0.95
