"""Images resized, cropped, composited: as Pillow and torchvision do, recorded, read again alike."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from typer.testing import CliRunner

from dualsmooth.engine.cli.app import app
from dualsmooth.engine.data.image_files import read_image
from dualsmooth.engine.data.image_set import data_digest
from dualsmooth.engine.data.prepare import Prepare
from dualsmooth.engine.data.spec import images_of_run, load_images
from dualsmooth.engine.errors import ArgumentError, DualSmoothError, FileError
from dualsmooth.engine.report.reading import read_run
from dualsmooth.engine.runs.audit import audit

DIGIT = np.random.default_rng(0).integers(0, 256, (12, 17, 1), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Grey files of mixed sizes, one class per digit."""
    for digit in range(10):
        place = tmp_path / "images" / str(digit)
        place.mkdir(parents=True)
        size = (12 + digit, 17 - digit)
        pixels = np.random.default_rng(digit).integers(0, 256, size, np.uint8)
        Image.fromarray(pixels).save(place / "a.png")
    return tmp_path / "images"


@pytest.mark.parametrize("size", [(12, 17), (17, 12), (9, 9), (301, 200)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_and_crop_are_those_of_torchvision(
    size: tuple[int, int], interpolation: str
) -> None:
    """Its rules, written out: the shorter side to N, the longer cut to whole pixels, the middle."""
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    short, long = min(size), max(size)
    sides = (8, int(8 * long / short)) if size[0] <= size[1] else (int(8 * long / short), 8)
    image = Image.fromarray(pixels).resize(sides[::-1], Image.Resampling[interpolation.upper()])
    top, left = (round((side - 7) / 2) for side in sides)
    expected = np.asarray(image)[top : top + 7, left : left + 7]
    assert_array_equal(Prepare("", (8,), 7, interpolation)(pixels, "x"), expected)


def test_they_are_those_of_torchvision_itself() -> None:
    transforms = pytest.importorskip("torchvision.transforms", exc_type=ImportError)
    for size in ((12, 17), (40, 33), (224, 224)):
        pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
        theirs = transforms.CenterCrop(7)(transforms.Resize(9)(Image.fromarray(pixels)))
        assert_array_equal(Prepare(resize=(9,), crop=7)(pixels, "x"), np.asarray(theirs))


def test_both_sides_and_grey() -> None:
    assert Prepare(resize=(8, 6))(DIGIT, "x").shape == (8, 6, 1)
    assert Prepare(crop=5)(DIGIT, "x").tolist() == DIGIT[4:9, 6:11].tolist()  # round half to even
    assert Prepare().record == {}
    assert Prepare.of(json.loads(json.dumps(Prepare("white", (9,), 8).record))) == Prepare(
        "white", (9,), 8
    )


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"resize": (0,)}, r"N, the shorter side, or HEIGHTxWIDTH, each in \[1, 8192\]"),
        ({"resize": (8, 8, 8)}, "resize must be N"),
        ({"crop": -1}, r"crop must be in \[1, 8192\]; received -1"),
        ({"interpolation": "random"}, "interpolation must be one of nearest, bilinear"),
        ({"background": "whitish"}, "background must be a colour; received whitish"),
    ],
)
def test_bad_options(options: dict[str, object], rule: str) -> None:
    with pytest.raises(ArgumentError, match=rule):
        Prepare(**options)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at most the sides of x, 12x17; received 13"):
        Prepare(crop=13)(DIGIT, "x")
    with pytest.raises(ArgumentError, match="resize must leave sides of at most 8192"):
        Prepare(resize=(8000,))(DIGIT, "x")
    for record in (3, {"resize": 3}, {"size": [3]}, {"crop": True, "resize": ["a"]}):
        with pytest.raises(ArgumentError, match=r"prepare|resize|crop"):
            Prepare.of(record)


def test_transparent_pixels_on_a_colour(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = 200, 100, 50, 255
    pixels[1, 1] = 200, 100, 50, 51
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(FileError, match=r"must be opaque.*--background white"):
        read_image(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", None, Prepare("white"))
    assert found.tolist() == [[[200, 100, 50], [255] * 3], [[255] * 3, [244, 224, 214]]]


def test_a_resized_run_is_recorded_audited_and_reported(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = f"certify digits-dual --data folder:{folder} --n 50 --out {run}".split()
    plain = CliRunner().invoke(app, command)
    assert "must have the height and width of the network" in str(plain.exception)
    assert "--resize N and --crop N" in str(plain.exception)
    assert not run.exists()
    result = CliRunner().invoke(app, [*command, "--resize", "9", "--crop", "8", "--json"])
    assert result.exit_code == 0, result.output
    found = read_run(run)
    prepare = {"background": "", "resize": [9], "crop": 8, "interpolation": "bilinear"}
    assert found.configuration["prepare"] == prepare
    assert (
        "resized (bilinear) to shorter side 9, cropped to 8: what came out is what is certified"
        in (found.conditions)
    )
    again = images_of_run(found.configuration, f"folder:{folder}")
    assert again is not None
    ids = [row.image_id for row in found.rows if row.image_id is not None]
    assert data_digest(again, ids) == found.configuration["data_digest"]
    seen = audit(run, again)
    assert seen.findings == []
    assert any("images and labels have the recorded digest" in text for text in seen.passed)
    other = load_images(f"folder:{folder}", shape=(8, 8, 1), prepare=Prepare(resize=(8, 8)))
    assert "other images than those recorded" in audit(run, other).findings[0]
    assert CliRunner().invoke(app, [*command, "--resume"]).exit_code == 0
    changed = CliRunner().invoke(app, [*command, "--resume", "--resize", "10", "--crop", "8"])
    assert "data_digest" in str(changed.exception) or "prepare" in str(changed.exception)


def test_arrays_are_resized_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.stack([DIGIT, DIGIT]), labels=np.array([3, 4]))
    made = load_images(f"npz:{tmp_path / 'a.npz'}", prepare=Prepare(resize=(8, 8)))
    assert_array_equal(made.images[1], Prepare(resize=(8, 8))(DIGIT, "x"))
    np.savez(tmp_path / "b.npz", x=DIGIT[None] / np.float32(255))
    with pytest.raises(ArgumentError, match="resize needs 8-bit images; received float32 in npz:"):
        load_images(f"npz:{tmp_path / 'b.npz'}", prepare=Prepare(resize=(8, 8)))


def test_one_file_is_read_for_one_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    seen = Image.open

    def spying(file: object, *options: object, **more: object) -> object:
        read.append(str(getattr(file, "name", file)))
        return seen(file, *options, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", spying)
    images = load_images(f"folder:{folder}", shape=(8, 8, 1), prepare=Prepare(resize=(8, 8)))
    assert (len(images), images.images.shape, read) == (10, (10, 8, 8, 1), [])
    assert images.images[3].shape == (8, 8, 1)
    assert read == [str(folder / "3" / "a.png")]
    assert [image.shape for image in images.images[[1, 2]]] == [(8, 8, 1)] * 2
    assert len(read) == 3


def test_a_file_that_changes_during_a_run_is_noticed(folder: Path) -> None:
    images = load_images(f"folder:{folder}", shape=(8, 8, 1), prepare=Prepare(resize=(8, 8))).images
    before = images[2]
    assert_array_equal(images[2], before)
    Image.fromarray(DIGIT[..., 0]).save(folder / "2" / "a.png")
    with pytest.raises(DualSmoothError, match=r"stay what they are; received another .*2/a\.png"):
        images[1:][1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a peak that Linux tells")
def test_many_files_cost_no_memory(tmp_path: Path) -> None:
    """100 pictures that are 60 MB decoded; one that keeps them is caught."""
    (tmp_path / "0").mkdir()
    Image.new("RGB", (450, 450), (9, 8, 7)).save(tmp_path / "0" / "0.jpg")
    data = (tmp_path / "0" / "0.jpg").read_bytes()
    for number in range(1, 100):
        (tmp_path / "0" / f"{number}.jpg").write_bytes(data)
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from dualsmooth.engine.data.spec import load_images\n"
        "from dualsmooth.engine.data.image_set import data_digest\n"
        "import numpy as np\n"
        "images = load_images(sys.argv[1], shape=(450, 450, 3))\n"
        "images.images[0]\n"
        "text = Path('/proc/self/status').read_text\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', text())[1])\n"
        "before = peak()\n"
        "data_digest(images, range(100))\n"
        "if sys.argv[2:]: np.asarray(images.images)\n"
        "print(peak() - before)\n"
    )
    grown = [
        int(subprocess.check_output([sys.executable, "-c", code, f"folder:{tmp_path}", *more]))
        for more in ([], ["keep"])
    ]
    assert grown[0] < 10_000, "kilobytes"
    assert grown[1] > 50_000
