"""One image file as 8-bit pixels: the picture that is stored, prepared as asked, or a refusal.

Only the formats promised are opened. Whatever a file holds, the only error is a FileError.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.data.prepare import AS_STORED, Prepare
from dualsmooth.engine.errors import DualSmoothError, FileError, reason_of
from dualsmooth.engine.limits import LARGEST_IMAGE

if TYPE_CHECKING:
    from PIL import ImageFile

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp"))
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
_GREY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
_BITS, _PHOTOMETRIC, _LARGEST, _PLANAR, _PALETTE = 258, 262, 281, 284, 320  # tags of TIFF
_FORMAT, _SUBSAMPLING = 339, 530


def read_image(
    path: Path, channels: int | None = None, prepare: Prepare = AS_STORED
) -> NDArray[np.uint8]:
    """Read an image file as (height, width, 1) if it is grey, else as (height, width, 3).

    Grey becomes three equal channels where three are asked for, and three that are equal everywhere
    one. Refused are several frames, transparency without a background to put it on, values that do
    not become 8 bits in one way only.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not path.is_file():
            folder = path.is_dir()
            received = (
                "a folder" if folder else "no plain file" if path.exists() else "no such file"
            )
            hint = "name the files in it" if folder else ""
            raise FileError(path, "must be an image", received, hint)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # every doubt that matters is an error below
            # Not by its name: Pillow maps named TIFF files and gets some orientations wrong.
            with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
                pixels = prepare(_checked_pixels(path, image, prepare.colour), path)
    except DualSmoothError:
        raise
    except UnidentifiedImageError as error:
        rule = f"must be one of {', '.join(_FORMATS)}"
        raise FileError(path, rule, "something else, or a damaged file") from error
    except Exception as error:  # decoders raise many kinds
        raise FileError(path, "must be an image", reason_of(error)) from error
    if channels == 3:
        return np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels
    if channels == 1 and (pixels == pixels[..., :1]).all():
        return pixels[..., :1]
    if channels not in (None, pixels.shape[2]):
        kind = "grey images" if channels == 1 else f"{channels} channels"
        raise FileError(path, f"must fit networks of {kind}", "a colour image")
    return pixels


def _checked_pixels(
    path: Path, image: "ImageFile.ImageFile", colour: tuple[int, ...] | None
) -> NDArray[np.uint8]:
    if image.width * image.height > LARGEST_IMAGE:
        raise FileError(path, f"must have at most {LARGEST_IMAGE} pixels", image.size)
    most, sixteen = _largest_value(path, image), image.mode == "I"
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise FileError(path, "must hold one picture", "several frames or pages")
    grey = upright.mode in _GREY
    if upright.has_transparency_data:
        upright = upright.convert("LA" if grey else "RGBA")
        opaque = upright.getchannel("A").getextrema() == (255, 255)
        if most is not None or (colour is None and not opaque):
            hint = "--background white puts it on that colour"
            raise FileError(path, "must be opaque", "transparent pixels", hint)
        if not opaque:
            behind = Image.new("RGBA", upright.size, colour)
            upright, grey = Image.alpha_composite(behind, upright.convert("RGBA")), False
    if most is None:
        pixels = np.asarray(upright.convert("L" if grey else "RGB"), np.uint8)
        return pixels[:, :, None] if grey else pixels
    values = np.asarray(upright).astype(np.float64)
    if sixteen:  # what stood in the file, before Pillow spread it over 16 bits
        values = np.rint(values * most / 65535)
    if not (values.min() >= 0 and values.max() <= most):  # false for NaN as well
        received = f"{values.min():g} .. {values.max():g}"
        raise FileError(path, f"must have values in [0, {most}]", received)
    return np.rint(values * 255 / most).astype(np.uint8)[:, :, None]


def _largest_value(path: Path, image: "ImageFile.ImageFile") -> int | None:
    """The value that is white where Pillow leaves the conversion to 8 bits to us."""
    if image.format == "TIFF":
        _check_tiff(path, image)
    elif image.format == "PNG" and image.mode != "I;16" and ";16" in str(image.tile):
        hint = "Pillow would cut them: convert the image to 8 bits first"
        raise FileError(path, "must have 8 bits per channel unless it is grey", "16 bits", hint)
    if image.mode.startswith("I;16"):
        return 65535
    if image.mode == "I" and image.format == "PPM":
        arguments = image.tile[0][3]
        return int(arguments[1]) if isinstance(arguments, tuple) else 65535
    if image.mode == "F" and image.info.get("scale", 1) == 1:
        return 1
    if image.mode not in (*_GREY, *_COLOUR):
        rule = f"must be one of {', '.join((*_GREY, *_COLOUR))}, 16-bit grey or floats in [0, 1]"
        raise FileError(path, rule, image.mode)
    return None


def _check_tiff(path: Path, image: "ImageFile.ImageFile") -> None:
    """Refuse what Pillow reads as something else without a word."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, white = (int(max(np.ravel(tags.get(tag, 1)))) for tag in (_BITS, _LARGEST))
    corners = [tile[1] or (0, 0, 0, 0) for tile in image.tile]
    area = sum((right - left) * (low - top) for left, top, right, low in corners)
    planes = len(image.getbands()) if tags.get(_PLANAR) == 2 else 1
    doubts = {
        "signed values": {*np.ravel(tags.get(_FORMAT, 1))} != {3 if image.mode == "F" else 1},
        "missing strips": area < planes * image.width * image.height,
        "a palette of 16 bits": any(v % 256 and v % 257 for v in tags.get(_PALETTE, ())),
        "subsampled colours": image.mode == "YCbCr" and tags.get(_SUBSAMPLING) != (1, 1),
        f"{bits} bits": bits > 8 and (image.mode[:4], bits) not in (("I;16", 16), ("F", 32)),
        "white as 0": bits > 8 and tags.get(_PHOTOMETRIC) != 1,
        f"white as {white}": bits == 16 and 1 < white < 65535 and not white & (white + 1),
    }
    for doubt, found in doubts.items():
        if found:
            rule = "must be TIFF of unsigned 8 bits, 16 bits of grey, or floats, white on top"
            raise FileError(path, rule, doubt)
