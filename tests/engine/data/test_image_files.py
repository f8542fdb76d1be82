"""Image files of every kind: the right 8 bits, worked out by hand, or one line that refuses."""

import io
import os
import struct
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import PIL
import pytest
from packaging.version import Version
from PIL import Image, ImageCms

from dualsmooth.engine.data.image_files import read_image
from dualsmooth.engine.errors import FileError

RAMP = np.tile(np.array([0, 20, 26, 33, 40, 128, 235, 255], np.uint8), (2, 1))


def saved(folder: Path, picture: Image.Image, kind: str, **options: Any) -> Path:
    path = folder / "x.png"
    picture.save(path, kind, **options)
    return path


def written(folder: Path, data: bytes) -> Path:
    path = folder / "x.png"
    path.write_bytes(data)
    return path


def png(depth: int, colour: int, row: bytes, width: int, *more: tuple[bytes, bytes]) -> bytes:
    chunks = [(b"IHDR", struct.pack(">2I5B", width, 1, depth, colour, 0, 0, 0)), *more,
              (b"IDAT", compress(b"\0" + row)), (b"IEND", b"")]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + kind + d + struct.pack(">I", crc32(kind + d))
        for kind, d in chunks
    )


def tiff(bits: int, photometric: int, data: bytes, samples: int = 1, *, end: str = "<",
         height: int = 1, **more: int) -> bytes:  # fmt: skip
    """A file of two columns, uncompressed; further tags as t339=2."""
    tags = {256: 2, 257: height, 258: bits, 259: 1, 262: photometric, 277: samples, 278: 1,
            279: len(data), **{int(name[1:]): value for name, value in more.items()}}  # fmt: skip
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(
        struct.pack(end + "HHI", tag, 3, 1) + struct.pack(end + "H", value) + b"\0\0"
        for tag, value in sorted(tags.items())
    )
    head = (b"II" if end == "<" else b"MM") + struct.pack(end + "HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + data


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "TIFF lzw", "TIFF big-endian"])
@pytest.mark.parametrize("shift", [0, 128, -128])
def test_sixteen_bits_become_eight(tmp_path: Path, kind: str, shift: int) -> None:
    """v / 257 to the nearest, so 257 k + 128 and 257 k - 128 are k."""
    values = (RAMP.astype(np.int64) * 257 + shift).clip(0, 65535).astype(np.uint16)
    values = values.astype(">u2") if "big" in kind else values
    options = {"compression": "tiff_lzw"} if "lzw" in kind else {}
    path = saved(tmp_path, Image.fromarray(values), kind.split()[0], **options)
    assert read_image(path).tolist() == RAMP[:, :, None].tolist()


@pytest.mark.parametrize("white", [1, 100, 255, 300, 1023, 4095, 65534, 65535])
@pytest.mark.parametrize("magic", [b"P2", b"P5", b"P6"])
def test_every_maxval_of_pgm_and_ppm(tmp_path: Path, white: int, magic: bytes) -> None:
    values = np.unique(np.linspace(0, white, 300).round().astype(int))
    size, planes = (1 if white < 256 else 2), (3 if magic == b"P6" else 1)
    data = (b" ".join(b"%d" % v for v in values) if magic == b"P2" else
            b"".join(int(v).to_bytes(size, "big") * planes for v in values))  # fmt: skip
    head = magic + b"\n%d 1\n%d\n" % (len(values), white)
    pixels = read_image(written(tmp_path, head + data))
    assert pixels.shape == (1, len(values), planes)
    assert (pixels[0] == np.rint(values * 255 / white)[:, None]).all()


@pytest.mark.parametrize("kind", ["TIFF", "PPM"])
def test_floats_in_0_1_become_255_v(tmp_path: Path, kind: str) -> None:
    unit = RAMP.astype(np.float32) / 255
    path = saved(tmp_path, Image.fromarray(unit), kind)
    assert read_image(path)[..., 0].tolist() == RAMP.tolist()
    for wrong in (unit * 255, unit - 0.5, unit * np.nan, unit + np.inf):
        with pytest.raises(FileError, match=r"x.png: must have values in \[0, 1\]"):
            read_image(saved(tmp_path, Image.fromarray(wrong), kind))


TRANSPARENT_1 = (b"tRNS", b"\0\1")
PALETTE = (b"PLTE", bytes([1, 2, 3, 40, 50, 60, 7, 8, 9]))
GREYS: dict[str, tuple[bytes, Any]] = {
    "png 1 bit": (png(1, 0, b"\x80", 2), [[255], [0]]),
    "png 2 bits": (png(2, 0, b"\x90", 2), [[170], [85]]),
    "png 4 bits": (png(4, 0, b"\x3c", 2), [[51], [204]]),
    "png unused transparency": (png(8, 0, b"\5\6", 2, TRANSPARENT_1), [[5], [6]]),
    "png opaque alpha": (png(8, 4, b"\5\xff\6\xff", 2), [[5], [6]]),
    "png opaque colour": (png(8, 6, b"\1\2\3\xff\4\5\6\xff", 2), [[1, 2, 3], [4, 5, 6]]),
    "png palette": (png(8, 3, b"\0\1", 2, PALETTE), [[1, 2, 3], [40, 50, 60]]),
    "png palette, unused transparency": (
        png(8, 3, b"\0\1", 2, PALETTE, (b"tRNS", b"\xff\xff\0")), [[1, 2, 3], [40, 50, 60]],
    ),
    "tiff unspecified extra": (tiff(8, 2, b"\1\2\3\0\4\5\6\0", 4, t338=0), [[1, 2, 3], [4, 5, 6]]),
    "tiff opaque": (tiff(8, 2, b"\1\2\3\xff\4\5\6\xff", 4, t338=2), [[1, 2, 3], [4, 5, 6]]),
    "tiff opaque, premultiplied": (
        tiff(8, 2, b"\1\2\3\xff\4\5\6\xff", 4, t338=1), [[1, 2, 3], [4, 5, 6]],
    ),
    "pbm": (b"P4\n2 1\n\x80", [[0], [255]]),
    "tiff": (tiff(8, 1, b"\1\2"), [[1], [2]]),
    "tiff, white is 0": (tiff(8, 0, b"\1\2"), [[254], [253]]),
    "tiff 16": (tiff(16, 1, struct.pack("<2H", 257, 5140)), [[1], [20]]),
    "tiff 16, big": (tiff(16, 1, struct.pack(">2H", 257, 5140), end=">"), [[1], [20]]),
    "tiff 16, whitest 60000": (tiff(16, 1, struct.pack("<2H", 257, 5140), t281=60000), [[1], [20]]),
    "tiff float": (tiff(32, 1, struct.pack("<2f", 0.2, 1), t339=3), [[51], [255]]),
}  # fmt: skip


@pytest.mark.parametrize("name", GREYS)
def test_values_by_hand(tmp_path: Path, name: str) -> None:
    data, pixels = GREYS[name]
    assert read_image(written(tmp_path, data)).tolist() == [pixels]


REFUSED: dict[str, tuple[bytes, str]] = {
    "png rgb 16": (png(16, 2, bytes(12), 2), "must have 8 bits per channel"),
    "png grey alpha 16": (png(16, 4, b"\xff" * 8, 2), "must have 8 bits per channel"),
    "png rgba 16": (png(16, 6, b"\xff" * 16, 2), "must have 8 bits per channel"),
    "png transparent grey": (png(8, 0, b"\1\2", 2, TRANSPARENT_1), "must be opaque"),
    "png transparent 1 bit": (png(1, 0, b"\x80", 2, TRANSPARENT_1), "must be opaque"),
    "png transparent 16": (png(16, 0, b"\0\1\0\2", 2, TRANSPARENT_1), "must be opaque"),
    "png transparent rgb": (png(8, 2, bytes(6), 2, (b"tRNS", bytes(6))), "must be opaque"),
    "png transparent palette": (
        png(8, 3, b"\0\1", 2, PALETTE, (b"tRNS", b"\0")), "must be opaque",
    ),
    "png alpha": (png(8, 4, b"\5\xfe\6\xff", 2), "must be opaque"),
    "tiff alpha": (tiff(8, 2, b"\1\2\3\x80\4\5\6\xff", 4, t338=2), "must be opaque"),
    "tiff premultiplied": (tiff(8, 2, b"\1\2\3\x80\4\5\6\xff", 4, t338=1), "must be opaque"),
    "tiff rgb 16": (tiff(16, 2, bytes(12), 3), "16 bits"),
    "tiff rgb 16 planar": (tiff(16, 2, bytes(12), 3, t284=2), "must be"),
    "tiff 12": (tiff(12, 1, b"\1\2\3"), "12 bits"),
    "tiff 12 in 16": (tiff(16, 1, struct.pack("<2H", 1, 4095), t281=4095), "white as 4095"),
    "tiff 16, white is 0": (tiff(16, 0, bytes(4)), "white as 0"),
    "tiff signed 8": (tiff(8, 1, b"\1\xff", t339=2), "signed values"),
    "tiff signed 16": (tiff(16, 1, bytes(4), t339=2), "signed values"),
    "tiff 32": (tiff(32, 1, bytes(8)), "32 bits"),
    "tiff signed 32": (tiff(32, 1, bytes(8), t339=2), "signed values"),
    "tiff float, white is 0": (tiff(32, 0, bytes(8), t339=3), "white as 0"),
    "tiff half": (tiff(16, 1, bytes(4), t339=3), "must be one of PNG"),
    "tiff double": (tiff(64, 1, bytes(16), t339=3), "must be one of PNG"),
    "tiff too few strips": (tiff(8, 1, b"\1\2", height=2), "missing strips"),
    "tiff subsampled": (tiff(8, 6, bytes(6), 3), "subsampled colours|image file is truncated"),
    "tiff, a plane too few": (tiff(8, 2, b"\1\2\3\4", 3, t284=2), "missing strips"),
    "tiff truncated": (tiff(8, 1, b"\1"), "truncated"),
    "scaled floats": (b"Pf\n2 1\n-2.0\n" + bytes(8), "must be one of 1, L"),
    "short pgm": (b"P5\n4 1\n100\nab", "must be an image"),
    "short plain pgm": (b"P2\n4 1\n255\n1 2", "must be an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "must be one of PNG"),
    "text": (b"GIF, but not really", "must be one of PNG"),
    "nothing": (b"", "must be one of PNG"),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_certain_8_bits_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, rule = REFUSED[name]
    path = written(tmp_path, data)
    with pytest.raises(FileError, match=rule) as error:
        read_image(path)
    assert "x.png: must " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["GIF", "ICO", "TGA", "PCX", "SGI", "EPS", "PDF", "DDS"])
def test_only_promised_formats_are_opened(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, Image.new("RGB", (16, 16)), kind)
    with pytest.raises(FileError, match=r"x.png: must be one of PNG, JPEG, BMP, PPM, TIFF, WEBP"):
        read_image(path)


def test_no_ghostscript_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.new("RGB", (16, 16)), "EPS")

    def started(*arguments: object, **options: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", started)
    monkeypatch.setattr("subprocess.Popen", started)
    with pytest.raises(FileError, match="must be one of PNG"):
        read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(tmp_path: Path, kind: str) -> None:
    first, second = Image.new("RGB", (4, 4), (9, 9, 9)), Image.new("RGB", (4, 4))
    with pytest.raises(FileError, match="must hold one picture"):
        read_image(saved(tmp_path, first, kind, save_all=True, append_images=[second]))
    phone = saved(tmp_path, first, "MPO", save_all=True, append_images=[second])
    assert (read_image(phone) == 9).all()


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [("CMYK", "JPEG", (207, 198, 190)), ("CMYK", "TIFF", (207, 198, 190)),
     ("YCbCr", "TIFF", (10, 13, 46)), ("LAB", "TIFF", None)],
)  # fmt: skip
def test_other_colours(
    tmp_path: Path, mode: str, kind: str, expected: tuple[int, int, int] | None
) -> None:
    """(255 - c)(255 - k) / 255, as every viewer without profiles; JFIF's matrix for YCbCr."""
    value = {"CMYK": (10, 20, 30, 40), "YCbCr": (16, 145, 124), "LAB": (10, 20, 30)}[mode]
    options = {"quality": 100} if kind == "JPEG" else {}
    path = saved(tmp_path, Image.new(mode, (8, 8), value), kind, **options)
    if expected is None:
        with pytest.raises(FileError, match="must be one of 1, L"):
            read_image(path)
    elif (mode, kind) == ("YCbCr", "TIFF") and Version(PIL.__version__) < Version("13"):
        with pytest.raises(
            FileError, match="image file is truncated"
        ):  # 12 cannot read what it wrote
            read_image(path)
    else:
        assert np.abs(read_image(path).astype(int) - expected).max() <= 1


TURNED: dict[int, Any] = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.T, 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T,
    8: np.rot90, 9: lambda a: a,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", TURNED)
def test_pictures_are_turned_as_their_exif_says(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    grey = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    options: Any = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    kinds = [Image.fromarray(grey)]
    if kind in ("PNG", "TIFF"):
        kinds += [Image.fromarray(grey.astype(np.uint16) * 257), kinds[0].convert("P")]
    for picture in kinds:
        pixels = read_image(saved(tmp_path, picture, kind, exif=exif, **options))[..., 0]
        expected = TURNED[orientation](grey)
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = saved(tmp_path, Image.fromarray(noise), kind).read_bytes()
    for keep in (0.3, 0.6, 0.95):
        with pytest.raises(FileError, match=r"x.png: must be"):
            read_image(written(tmp_path, data[: int(keep * len(data))]))


@pytest.mark.parametrize("step", [256, 257, 1])
def test_palettes_of_tiff_have_8_bits(tmp_path: Path, step: int) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP).convert("P"), "TIFF")
    values = np.arange(256) * (step if step > 1 else 255)
    pattern = struct.pack("<768H", *np.tile(np.arange(256) * 256, 3))
    data = path.read_bytes()
    assert pattern in data
    path.write_bytes(data.replace(pattern, struct.pack("<768H", *np.tile(values, 3))))
    if step > 1:
        assert read_image(path)[..., 1].tolist() == RAMP.tolist()
    else:
        with pytest.raises(FileError, match="a palette of 16 bits"):
            read_image(path)


def test_profiles_are_not_applied(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    picture = Image.new("RGB", (2, 2), (200, 100, 50))
    for kind in ("PNG", "TIFF"):
        path = saved(tmp_path, picture, kind, icc_profile=profile)
        assert read_image(path)[0, 0].tolist() == [200, 100, 50]


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    found = {"pipe.png": "no plain file", ".": "a folder", "missing": "no such file"}
    for place, said in {**found, "/dev/zero": "no plain file"}.items():
        with pytest.raises(FileError, match=f"must be an image; received {said}"):
            read_image(tmp_path / place)


def test_channels_are_those_asked_for(tmp_path: Path) -> None:
    grey = saved(tmp_path, Image.fromarray(RAMP), "PNG")
    assert read_image(grey, 1).shape == (2, 8, 1)
    assert read_image(grey, 3).tolist() == np.repeat(RAMP[:, :, None], 3, 2).tolist()
    equal = saved(tmp_path, Image.fromarray(RAMP).convert("RGB"), "PNG")
    assert read_image(equal).shape == (2, 8, 3)
    assert read_image(equal, 1)[..., 0].tolist() == RAMP.tolist()
    data = io.BytesIO()
    Image.new("RGB", (2, 2), (1, 2, 3)).save(data, "PNG")
    for channels, kind in ((1, "grey images"), (4, "4 channels")):
        with pytest.raises(FileError, match=f"must fit networks of {kind}"):
            read_image(written(tmp_path, data.getvalue()), channels)
