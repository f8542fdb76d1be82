"""`dualsmooth train dual --data idx:DIR` on data that no recipe was made for, as they stand."""

import struct
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


def write_idx(folder: Path, name: str, split: str) -> None:
    """Digits, turned on their side and twice as large, in MNIST's layout."""
    data = load_images("digits" if split == "t10k" else "digits:train")
    turned = np.rot90(data.images[..., 0], axes=(1, 2)).repeat(2, 1).repeat(2, 2)
    head = struct.pack(">IIII", 2051, *turned.shape)
    (folder / f"{split}-images-idx3-ubyte").write_bytes(head + turned.tobytes())
    labels = data.labels.astype(np.uint8)
    head = struct.pack(">II", 2049, len(labels))
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


@pytest.mark.slow
def test_the_selector_varies_and_its_points_differ(tmp_path: Path) -> None:
    for split in ("train", "t10k"):
        write_idx(tmp_path, "digits", split)
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
