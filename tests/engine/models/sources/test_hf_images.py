"""Image processors of transformers, read from their settings alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from dualsmooth.engine.data.prepare import Prepare
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.sources.hf_images import Processor, read_processor

SCALE = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
SQUARE, EDGE = {"height": 32, "width": 24}, {"shortest_edge": 256}
CASES: dict[str, tuple[dict[str, Any], str, tuple[int, int] | None]] = {
    "two sides": ({"size": SQUARE}, "resized (bilinear) to 32x24", (32, 24)),
    "side and crop": (
        {"size": EDGE, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
         "resample": 3}, "resized (bicubic) to shorter side 256, cropped to 224", (224, 224)),
    "share": ({"size": {"shortest_edge": 224}, "crop_pct": 0.875},
              "resized (bilinear) to shorter side 256, cropped to 224", (224, 224)),
    "large share": ({"size": {"shortest_edge": 384}, "crop_pct": 0.875},
                    "resized (bilinear) to 384x384", (384, 384)),
    "crop alone": ({"size": EDGE, "do_resize": False, "do_center_crop": True, "crop_size": 8},
                   "cropped to 8", (8, 8)),
    "a number means either": ({"size": 224}, "", (224, 224)),
    "no crop of the side": ({"size": EDGE}, "", (256, 256)),
    "a filter of its own": ({"size": SQUARE, "resample": 5}, "", (32, 24)),
    "nothing": ({}, "", None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sizes(name: str) -> None:
    settings, words, size = CASES[name]
    found = Processor(settings)
    assert str(Prepare.of(found.preparation or {})) == words
    assert found.size == size


def test_mean_and_std_are_those_of_unit_pixels(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(SCALE | {"rescale_factor": 0.00392156862745098}))
    found = read_processor(path)
    assert (found.mean(path), found.std(path)) == (SCALE["image_mean"], SCALE["image_std"])
    plain = Processor({"do_normalize": False})
    assert (plain.mean(path), plain.std(path)) == ([0.0], [1.0])
    for settings in ({}, SCALE | {"do_rescale": False}, SCALE | {"rescale_factor": 1 / 127.5}):
        with pytest.raises(FileError, match=r"mean and std; received.*give --mean and --std"):
            Processor(settings).mean(path)
    assert read_processor(None).size is read_processor(tmp_path / "absent").size is None
    path.write_text("[]")
    with pytest.raises(FileError, match="must be the settings of an image processor"):
        read_processor(path)
