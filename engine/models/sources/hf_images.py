"""What an image processor of transformers does, from its `preprocessor_config.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.json_file import read_json

_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_WHOLE = 384
"""From this size on, processors with a crop_pct resize without cropping."""
_OTHER_SIZES = (
    "do_pad do_thumbnail do_align_long_axis do_pan_and_scan size_divisor resize_short".split()
)
"""Settings that make other pictures than resizing and cropping do."""


@dataclass(frozen=True)
class Processor:
    """Settings of an image processor; empty where a model has none.

    ``kind`` is its class, or the model's where it names none, in small letters. It decides what the
    settings leave out.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""

    def check_order(self, path: Path) -> None:
        """Refuse a processor that reverses the channels or replaces colours by numbers."""
        turned = self.settings.get("do_flip_channel_order", self.kind.startswith("mobilevit"))
        turned = turned or self.kind.startswith("pplcnet")
        if turned or self.settings.get("do_color_quantize"):
            rule = "must stand beside a processor that keeps red, green and blue as they are"
            received = "blue first" if turned else "do_color_quantize"
            hint = "certify the module in Python, behind a layer that does the same"
            raise FileError(path, rule, received, hint)

    def mean(self, path: Path) -> Sequence[float]:
        """Mean in [0, 1] pixel units; `FileError` about the model's file if it is not said."""
        return self._scale(path, "image_mean", 0.0)

    def std(self, path: Path) -> Sequence[float]:
        """Standard deviation, as `mean`; EfficientNet's processor divides by it twice."""
        found = self._scale(path, "image_std", 1.0)
        if not self.settings.get("include_top", self.kind.startswith("efficientnet")):
            return found
        again = Processor({**self.settings, "do_normalize": True})._scale(path, "image_std", 1.0)
        return [a * b for a, b in zip([*found] * (len(again) // len(found)), again, strict=True)]

    def _scale(self, path: Path, key: str, none: float) -> Sequence[float]:
        known = self.settings
        values = known.get(key) if known.get("do_normalize", True) else [none]
        numbers: list[Any] = values if isinstance(values, list) else [values]
        usual = isclose(known.get("rescale_factor") or 1 / 255, 1 / 255, rel_tol=1e-6)
        usual = usual and known.get("do_rescale", True) and not known.get("rescale_offset")
        if not usual or not {*map(type, numbers)} <= {int, float}:
            rule = "must stand beside a processor that scales pixels to [0, 1], mean and std"
            raise FileError(path, rule, f"{key} {values}", "give --mean and --std")
        return numbers

    @property
    def preparation(self) -> dict[str, Any] | None:
        """How it resizes and crops, as a record of `Prepare`; None if that cannot be said so."""
        known, size, crop = self.settings, _sides(self.settings.get("size")), 0
        if self.kind.startswith("perceiver") or any(map(known.get, _OTHER_SIZES)):
            return None
        if self.kind.startswith("levit") and len(size) == 1:
            size = [int(256 / 224 * size[0])]
        if not known.get("do_resize", True):
            size = []
        elif known.get("crop_pct") and len(size) == 1 and type(size[0]) is int:
            edge = size[0]
            size = [edge, edge] if edge >= _WHOLE else [int(edge / known["crop_pct"])]
            crop = 0 if edge >= _WHOLE else edge
        elif not size or type(known.get("size")) is int:  # a number: processors differ
            return None
        if known.get("do_center_crop"):
            sides = _sides(known.get("crop_size"))
            if not sides or sides[0] != sides[-1]:
                return None
            crop = sides[0]
        way = _INTERPOLATIONS.get(known.get("resample", 2))
        whole = crop or len(size) == 2
        return {"resize": size, "crop": crop, "interpolation": way} if way and whole else None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of what comes out; None if that is not said."""
        made = self.preparation
        if made is not None:
            height, width = [made["crop"]] * 2 if made["crop"] else made["resize"]
            return height, width
        edge = _sides(self.settings.get("crop_size") or self.settings.get("size"))
        return (edge[0], edge[-1]) if edge else None


def _sides(size: object) -> list[int]:
    """``[shorter side]`` or ``[height, width]`` of a processor's size; empty if it is none."""
    found = [size]
    if isinstance(size, Mapping):
        keys = ("shortest_edge",) if "shortest_edge" in size else ("height", "width")
        found = [size.get(key) for key in keys]
    sides = [side for side in found if type(side) is int and side > 0]
    return sides if len(sides) == len(found) else []


def read_processor(path: Path | None, model: str = "") -> Processor:
    """Settings in a processor's file, empty ones without a file, for a model of this type."""
    if path is None or not path.exists():
        return Processor()
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise FileError(path, "must be the settings of an image processor", type(settings).__name__)
    names = (settings.get(key) for key in ("image_processor_type", "feature_extractor_type"))
    kind = next((name for name in names if isinstance(name, str)), model)
    return Processor(settings, kind.replace("_", "").lower())
