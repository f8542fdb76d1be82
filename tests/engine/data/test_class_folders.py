"""Folders of images per class: what is a class, which number it has, and what is refused."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from dualsmooth.engine.data.class_folders import order_of
from dualsmooth.engine.data.class_names import check_classes, numbered, read_classes
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import images_of_run, load_images
from dualsmooth.engine.errors import ArgumentError, FileError

GREY, COLOUR = (4, 3), (4, 3, 3)


def put(path: Path, value: int = 50, size: tuple[int, ...] = COLOUR) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    put(tmp_path / "bee" / "0.png", 50)
    put(tmp_path / "ant" / "0.png", 51)
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    return tmp_path


def test_classes_are_numbered_in_the_order_of_their_names(two: Path) -> None:
    images = load_images(f"folder:{two}")
    assert (images.classes, images.classes_given) == (("ant", "bee"), False)
    assert_array_equal(images.labels, [0, 1])
    assert_array_equal(images.images[:, 0, 0, 0], [51, 50])
    assert images.shape == (4, 3, 3)


def test_what_programs_leave_behind_is_no_class_and_no_image(two: Path) -> None:
    for name in (".cache", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found",
                 "a/.hidden", "ant/@eaDir", "bee/.ipynb_checkpoints", "$RECYCLE.BIN",
                 "ant/__MACOSX"):  # fmt: skip
        put(two / name / "x.png", 1, (9, 9))
    (two / "empty").mkdir()
    put(two / "ant" / "._0.png").write_bytes(b"resource fork")
    (two / "ant" / "Thumbs.db").write_bytes(b"\0")
    (two / "ant" / "inner" / "words").mkdir(parents=True)
    (two / "texts").mkdir()
    (two / "texts" / "a.txt").write_text("no image")
    images = load_images(f"folder:{two}")
    assert images.classes == ("ant", "bee")
    assert_array_equal(images.images[:, 0, 0, 0], [51, 50])


def test_links_to_folders_and_files_are_followed(two: Path, tmp_path_factory: object) -> None:
    (two / "cat").symlink_to(two / "ant", target_is_directory=True)
    (two / "bee" / "1.png").symlink_to(two / "ant" / "0.png")
    images = load_images(f"folder:{two}")
    assert images.classes == ("ant", "bee", "cat")
    assert_array_equal(images.images[:, 0, 0, 0], [51, 50, 51, 51])
    (two / "bee" / "1.png").unlink()
    (two / "bee" / "1.png").symlink_to(two / "nowhere")
    with pytest.raises(FileError, match=r"bee/1.png: must be an image; received no such file"):
        load_images(f"folder:{two}")


def broken(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n broken")


@pytest.mark.parametrize(
    ("place", "make", "rule"),
    [
        ("bee/1.png", lambda p: put(p, size=(4, 4, 3)), r"bee/1.png: .* first image, .*ant/0"),
        ("ant/9.png", lambda p: put(p, size=(3, 4)), r"ant/9.png: must have the height and width"),
        ("bee/1.png", broken, r"bee/1.png: must be one of PNG, JPEG"),
        ("bee/sub/1.png", put, r"bee/sub/1.png: must lie in DIR/CLASS/FILE"),
        ("bee/sub/deep/1.png", put, r"bee/sub/deep/1.png: must lie in DIR/CLASS/FILE"),
        ("train/cat/1.png", put, r"train/cat/1.png: must lie .*perhaps you mean folder:.*train"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    two: Path, place: str, make: Callable[[Path], object], rule: str
) -> None:
    (two / place).parent.mkdir(parents=True, exist_ok=True)
    make(two / place)
    with pytest.raises(FileError, match=rule):
        load_images(f"folder:{two}")


def test_folders_that_cannot_be_listed_are_named(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterdir = Path.iterdir

    def forbidden(path: Path) -> Iterator[Path]:
        if path.name == "bee":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(FileError, match=r"bee: must be readable; received Permission denied"):
        load_images(f"folder:{two}")


def test_a_folder_without_images(tmp_path: Path) -> None:
    for name in ("ant", ".git"):
        with pytest.raises(FileError, match=r"one folder per class, with images.*DIR/CLASS/FILE"):
            load_images(f"folder:{tmp_path}")
        (tmp_path / name).mkdir()
    put(tmp_path / "flat.png")
    with pytest.raises(FileError, match="one folder per class, with images"):
        load_images(f"folder:{tmp_path}")


def test_grey_among_colour_becomes_three_equal_channels(two: Path) -> None:
    put(two / "ant" / "1.png", 7, GREY)
    images = load_images(f"folder:{two}").images
    assert images.shape == (3, 4, 3, 3)
    assert (images[1] == 7).all()
    assert_array_equal(load_images(f"folder:{two}", shape=(4, 3, 3)).images, images)
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(4, 3, 3)).save(two / "bee" / "2.png")
    with pytest.raises(FileError, match=r"bee/2.png: must fit networks of grey images"):
        np.asarray(load_images(f"folder:{two}", shape=(4, 3, 1)).images)


def read_again(run: dict[str, Any], spec: str) -> tuple[int, ...]:
    """Shape of the images of a run."""
    data = images_of_run(run, spec)
    assert data is not None
    return data.shape


def test_channels_follow_the_network(tmp_path: Path) -> None:
    put(tmp_path / "a" / "0.png", 9, GREY)
    put(tmp_path / "b" / "0.png", 8, COLOUR)  # three equal channels
    grey = np.asarray(load_images(f"folder:{tmp_path}", shape=(4, 3, 1)).images)
    assert grey[:, 0, 0].tolist() == [[9], [8]]
    run = {"bundle_manifest": {"input_shape": [4, 3, 1]}}
    assert read_again(run, f"folder:{tmp_path}") == (4, 3, 1)
    for damaged in ({}, {"bundle_manifest": 3}, {"bundle_manifest": {"input_shape": ["4", 3, 1]}}):
        assert read_again(damaged, f"folder:{tmp_path}") == (4, 3, 3)
    with pytest.raises(FileError, match=r"a/0.png: must have the height and width of the network"):
        load_images(f"folder:{tmp_path}", shape=(5, 3, 1)).images[0]


def test_no_more_files_are_read_than_asked_for(two: Path) -> None:
    broken(two / "bee" / "0.png")
    images = load_images(f"folder:{two}", most=1)
    assert (len(images), images.classes) == (1, ("ant", "bee"))
    with pytest.raises(ArgumentError, match=r"^max must be an integer >= 1"):
        load_images(f"folder:{two}", most=0)


@pytest.mark.parametrize(
    ("lines", "folders", "expected"),
    [
        ("b a c", "a b", "b a c"),
        ("10 2 1 0", "0 1 10 2", "10 2 1 0"),
        ("1 b|0 a", "a b", "a b"),
        ("3 b|1 a", "a b", "- a - b"),
        ("n02 tench, fish|n01 shark", "n01 n02", "n02 n01"),
        ("5 n02 tench|0 n01 shark", "n01 n02", "n01 - - - - n02"),
        ("1 cat|0 dog", "0 1", "0 1"),
        ("1 euro|2 euro", "1_euro", ""),
        ("a b a", "b", ""),
        ("a b", "a c", ""),
        ("crane x|crane y", "crane", ""),
        ("", "a", ""),
        ('{"0":["n01","tench"]}', "n01", ""),
    ],
)
def test_orders_of_classes(lines: str, folders: str, expected: str) -> None:
    listed = lines.split("|") if "|" in lines else lines.split()
    if not expected:
        with pytest.raises(ArgumentError, match="classes must name every folder, and none twice"):
            order_of(listed, tuple(folders.split()), Path("d"))
        return
    names = order_of(listed, tuple(folders.split()), Path("d"))
    assert names == tuple("" if name == "-" else name for name in expected.split())
    assert order_of(names, tuple(folders.split()), Path("d")) == names  # as run.json has it


def test_the_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"2 lines, the first 'n1 tench', and the folder .*n3 "):
        order_of(["n1 tench", "n2 shark"], ("n1", "n3"), tmp_path)


def test_whole_lines_come_first(tmp_path: Path) -> None:
    assert order_of(["5 euro", "1 euro"], ("1 euro", "5 euro"), tmp_path) == ("5 euro", "1 euro")


def test_lists_of_classes_are_texts_without_holes(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffant\r\nbée \n\n\n".encode())
    assert read_classes(path) == ("ant", "bée")
    for data, rule in ((b"ant\n\nbee\n", "line 2 empty"), (b"\n \n", "an empty file"),
                       (b"\xff\xfe", "a text of one class a line")):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(FileError, match=rule):
            read_classes(path)
    with pytest.raises(FileError, match="missing"):
        read_classes(tmp_path / "missing")


@pytest.mark.parametrize(
    "text",
    [
        '["ant", "bee"]',
        '{"0": "ant", "1": "bee"}',
        '{"ant": 0, "bee": 1}',
        '{"model_type": "vit", "id2label": {"1": "bee", "0": "ant"}}',
        "0,ant\n1,bee\n",
        'index,name\n0,ant\n1,"bee"\n',
        "name,label\nant,0\nbee,1\n",
        "0\tant\n1\tbee\n",
    ],
)
def test_classes_are_read_from_what_people_have(two: Path, text: str) -> None:
    (two / "classes").write_text(text)
    lines = read_classes(two / "classes")
    assert sorted(numbered(lines)) == [(0, "ant"), (1, "bee")]
    assert order_of(lines, ("ant", "bee"), two) == ("ant", "bee")


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "[[1]]", '["ant", ""]', '{"0": "ant", "00": "bee"}', "{0: 'ant'}", '[{"a": 1}]'],
)
def test_other_json_is_no_list_of_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(FileError, match=r"must be JSON of a list of names.*one name a line\)$"):
        read_classes(tmp_path / "classes.json")


def test_names_may_have_commas(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\n")
    assert read_classes(tmp_path / "names.txt")[0] == "tench, Tinca tinca"
    (tmp_path / "one.txt").write_text("x" * 200_000 + ",1\ny,2\n")
    assert read_classes(tmp_path / "one.txt")[1] == "y,2"
    (tmp_path / "names.json").write_text(
        '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}'
    )
    assert read_classes(tmp_path / "names.json")[0] == "0 n01440764 tench"


def data_of(names: str, *, given: bool = False, kind: str = "folder:d") -> ImageSet:
    classes = tuple("" if name == "-" else name for name in names.split())
    labels = np.array([i for i, name in enumerate(classes) if name], np.int64)
    return ImageSet(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, kind, classes, given)


@pytest.mark.parametrize(
    ("data", "count", "rule"),
    [
        (
            data_of("ant bee cat"),
            10,
            "have the 10 classes of bundle b; received 3 in folder:d: ant",
        ),
        (data_of("ant bee cat"), 2, "labels in 0 .. 1, the 2 classes of bundle b; .*label 2"),
        (data_of("a b c", kind="npz:x"), 2, "labels in 0 .. 1.*label 2 in npz:x"),
        (data_of("0 1 10 2"), 4, "numeric names in the order.*10 as class 2 in folder:d: 0, 1, 10"),
        (data_of("1 2 3"), 3, "numeric names.*1 as class 0"),
        (data_of("- - a", given=True), 2, "labels in 0 .. 1"),
        (data_of("a b", given=True), 3, "have the 3 classes"),
    ],
)
def test_other_classes_than_the_model_s_are_refused(data: ImageSet, count: int, rule: str) -> None:
    with pytest.raises(ArgumentError, match=f"^data must .*{rule}"):
        check_classes(data, count, "bundle b")


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (data_of("ant bee"), 2), (data_of("0 1 2"), 3), (data_of("00 01 02"), 3),
        (data_of("10 2 0", given=True), 3), (data_of("- a", given=True), 7),
        (data_of("a b", kind="npz:x"), 7),
    ],
)  # fmt: skip
def test_classes_that_fit(data: ImageSet, count: int) -> None:
    check_classes(data, count, "bundle b")


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (data_of("ant bee"), "bee ant"), (data_of("Ant BEE"), "bee ant"),
        (data_of("ant bee", kind="memory"), "bee ant"), (data_of("owl_a bee"), "bee cat"),
        (data_of("air-plane car", kind="cifar10:d"), "automobile airplane"),
    ],
)  # fmt: skip
def test_classes_in_another_order_than_the_model_s_are_refused(data: ImageSet, known: str) -> None:
    with pytest.raises(ArgumentError, match=r"classes in the order of bundle b; .* as class \d in"):
        check_classes(data, 2, "bundle b", known.split())


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (data_of("ant bee"), "Ant Bee"), (data_of("ant bee"), ""),
        (data_of("ant bee", kind="memory"), "cat dog"), (data_of("n01 n02"), "cat dog"),
        (data_of("ant bee", given=True), "bee ant"), (data_of("0 1", kind="npz:x"), "1 0"),
        (data_of("owl a-nt"), "owl ANT"), (data_of("crane crane", kind="memory"), "owl crane"),
    ],
)  # fmt: skip
def test_classes_in_the_model_s_order_or_of_other_names_fit(data: ImageSet, known: str) -> None:
    with warnings.catch_warnings(action="error"):
        check_classes(data, 2, "bundle b", known.split())


@pytest.mark.parametrize(("known", "found"), [("cat dog", "2 of 2"), ("ant dog", "1 of 2")])
def test_folders_of_no_class_of_the_model_s_are_told(known: str, found: str) -> None:
    with pytest.warns(UserWarning, match=f"and {found} is none of bundle b's, as .*--classes FILE"):
        check_classes(data_of("ant bee"), 2, "bundle b", known.split())
