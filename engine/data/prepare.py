"""How images are made to fit a network before they are certified: resized, cropped, composited.

The image that comes out is the one that is certified; what was done stands in the run's record.
Pillow resizes, as torchvision and timm do with files: the shorter side, antialiased, in 8 bits.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.checks import one_of
from dualsmooth.engine.errors import ArgumentError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
LARGEST_SIDE = 1 << 13


@dataclass(frozen=True)
class Prepare:
    """What is done with an image, in this order.

    Parameters
    ----------
    background : str
        Colour (a name or #rrggbb) that transparent pixels are put on; empty to refuse them.
    resize : tuple of int
        ``(size,)`` of the shorter side, or ``(height, width)``; empty to leave the size.
    crop : int
        Side of the square cut out of the middle; 0 for none.
    interpolation : str
        nearest, bilinear, bicubic or lanczos.

    Raises
    ------
    ArgumentError
        If a value is outside its range.
    """

    background: str = ""
    resize: tuple[int, ...] = ()
    crop: int = 0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        one_of("interpolation", self.interpolation, INTERPOLATIONS)
        sizes = all(type(size) is int and 1 <= size <= LARGEST_SIDE for size in self.resize)
        if len(self.resize) > 2 or not sizes:
            rule = f"must be N, the shorter side, or HEIGHTxWIDTH, each in [1, {LARGEST_SIDE}]"
            raise ArgumentError("resize", rule, "x".join(map(str, self.resize)))
        if type(self.crop) is not int or not 0 <= self.crop <= LARGEST_SIDE:
            raise ArgumentError("crop", f"must be in [1, {LARGEST_SIDE}]", self.crop)
        if self.background and self.colour is None:
            raise ArgumentError("background", "must be a colour", self.background, "white, #808080")

    @classmethod
    def of(cls, record: object) -> "Prepare":
        """What a run recorded; ArgumentError if it is no such record."""
        found: dict[str, Any] = {"record": record}
        if isinstance(record, Mapping):
            found = {str(key): value for key, value in record.items()}
        kinds = {"background": str, "resize": list, "crop": int, "interpolation": str}
        if any(not isinstance(value, kinds.get(key, tuple)) for key, value in found.items()):
            raise ArgumentError("prepare", "must be the record of how images were prepared", found)
        return cls(**found | {"resize": tuple(found.get("resize", ()))})

    @classmethod
    def parse_resize(cls, text: str | None) -> tuple[int, ...]:
        """``256`` or ``224x224`` as on the command line."""
        try:
            return tuple(int(part) for part in text.split("x")) if text else ()
        except ValueError:
            rule = "must be N, the shorter side, or HEIGHTxWIDTH"
            raise ArgumentError("resize", rule, text) from None

    @property
    def record(self) -> dict[str, Any]:
        """What was done, for the record of a run; empty if nothing was."""
        plain = Prepare(interpolation=self.interpolation)
        return {} if self == plain else asdict(self) | {"resize": list(self.resize)}

    @property
    def colour(self) -> tuple[int, ...] | None:
        """The background as red, green, blue; None without one."""
        if not self.background:
            return None
        from PIL import ImageColor

        try:
            return ImageColor.getrgb(self.background)[:3]
        except ValueError:
            return None

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.resize))
        parts = [f"put on {self.background}"] if self.background else []
        if self.resize:
            side = "shorter side " if len(self.resize) == 1 else ""
            parts.append(f"resized ({self.interpolation}) to {side}{sizes}")
        return ", ".join(parts + ([f"cropped to {self.crop}"] if self.crop else []))

    def __call__(self, pixels: NDArray[np.uint8], name: object) -> NDArray[np.uint8]:
        """The image that is certified; uint8 (height, width, channels)."""
        height, width = pixels.shape[:2]
        if self.resize:
            from PIL import Image

            height, width = self._size(height, width)
            grey = pixels.shape[2] == 1
            image = Image.fromarray(pixels[..., 0] if grey else pixels)
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
            pixels = np.asarray(image).reshape(height, width, pixels.shape[2])
        if self.crop:
            if self.crop > min(height, width):
                rule = f"must be at most the sides of {name}, {height}x{width}"
                raise ArgumentError("crop", rule, self.crop, "add a larger --resize")
            top, left = (round((side - self.crop) / 2) for side in (height, width))
            pixels = pixels[top : top + self.crop, left : left + self.crop]
        return np.ascontiguousarray(pixels)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if len(self.resize) == 2:
            return self.resize[0], self.resize[1]
        short, long = min(height, width), max(height, width)
        other = int(self.resize[0] * long / short)
        if other > LARGEST_SIDE:
            raise ArgumentError("resize", f"must leave sides of at most {LARGEST_SIDE}", other)
        return (self.resize[0], other) if height <= width else (other, self.resize[0])


AS_STORED = Prepare()
"""Nothing is done: the picture in the file is the one that is certified."""
