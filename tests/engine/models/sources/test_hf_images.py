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
    "padded": ({"size": SQUARE, "do_pad": True}, "", (32, 24)),
    "Levit's side": ({"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224,
                      "image_processor_type": "LevitImageProcessor"},
                     "resized (bilinear) to shorter side 256, cropped to 224", (224, 224)),
    "cropped first": ({"size": SQUARE, "feature_extractor_type": "PerceiverFeatureExtractor"},
                      "", (32, 24)),
    "nothing": ({}, "", None),
}  # fmt: skip


def read(path: Path, settings: dict[str, Any], model: str = "vit") -> Processor:
    path.write_text(json.dumps(settings))
    return read_processor(path, model)


@pytest.mark.parametrize("name", CASES)
def test_sizes(tmp_path: Path, name: str) -> None:
    settings, words, size = CASES[name]
    found = read(tmp_path / "processor.json", settings)
    assert str(Prepare.of(found.preparation or {})) == words
    assert found.size == size


def test_mean_and_std_are_those_of_unit_pixels(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    found = read(path, SCALE | {"rescale_factor": 0.00392156862745098})
    assert (found.mean(path), found.std(path)) == (SCALE["image_mean"], SCALE["image_std"])
    plain = Processor({"do_normalize": False})
    assert (plain.mean(path), plain.std(path)) == ([0.0], [1.0])
    others = {"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"rescale_offset": True}
    for settings in ({}, *(SCALE | other for other in others)):
        with pytest.raises(FileError, match=r"mean and std; received.*give --mean and --std"):
            Processor(settings).mean(path)
    assert read_processor(None).size is read_processor(tmp_path / "absent").size is None
    path.write_text("[]")
    with pytest.raises(FileError, match="must be the settings of an image processor"):
        read_processor(path)


TWICE = {"image_processor_type": "EfficientNetImageProcessor"}


@pytest.mark.parametrize(
    ("settings", "model", "std"),
    [
        (TWICE, "vit", [0.04, 0.09, 0.16]),
        ({"include_top": True}, "vit", [0.04, 0.09, 0.16]),
        ({}, "efficientnet", [0.04, 0.09, 0.16]),
        (TWICE | {"do_normalize": False}, "", [0.2, 0.3, 0.4]),
        (TWICE | {"include_top": False}, "", [0.2, 0.3, 0.4]),
    ],
    ids=str,
)
def test_efficientnet_divides_by_its_std_twice(
    tmp_path: Path, settings: dict[str, Any], model: str, std: list[float]
) -> None:
    path = tmp_path / "processor.json"
    assert read(path, SCALE | settings, model).std(path) == pytest.approx(std)


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"do_flip_channel_order": True}, "vit"),
        ({"feature_extractor_type": "MobileViTFeatureExtractor"}, "vit"),
        ({}, "mobilevitv2"),
        ({}, "pp_lcnet"),
        ({"do_color_quantize": True}, "vit"),
    ],
    ids=str,
)
def test_colours_in_another_order_are_refused(
    tmp_path: Path, settings: dict[str, Any], model: str
) -> None:
    path = tmp_path / "processor.json"
    with pytest.raises(FileError, match=r"keeps red, green and blue.*behind a layer"):
        read(path, SCALE | settings, model).check_order(path)
    read(path, SCALE | {"do_flip_channel_order": False}, "mobilevit").check_order(path)
    read_processor(None, "mobilevit").check_order(path)
