import gzip
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from dualsmooth.engine.data.class_names import check_classes
from dualsmooth.engine.data.spec import DATA_VARIABLE, DIGITS_SHAPE, load_images, named_or_digits
from dualsmooth.engine.errors import ArgumentError, DualSmoothError, FileError
from dualsmooth.engine.images import as_unit_float

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the sibling folder shared/data")

TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray, names: str = "t10k") -> None:
    head = struct.pack(">4I", 2051, *images.shape)
    (folder / f"{names}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    (folder / f"{names}-labels-idx1-ubyte").write_bytes(
        struct.pack(">2I", 2049, len(labels)) + labels.astype(np.uint8).tobytes()
    )


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    images = np.arange(3 * 5 * 4, dtype=np.uint8).reshape(3, 5, 4)
    write_idx(tmp_path, images, np.array([7, 0, 9]))
    return tmp_path


def test_digits_are_split_and_scaled() -> None:
    from sklearn.datasets import load_digits

    train, test = load_images("digits:train"), load_images("digits")
    assert (len(train), len(test)) == (1257, 540)
    assert test.shape == (8, 8, 1)
    assert test.classes == tuple("0123456789")
    both = np.concatenate([train.images, test.images])[..., 0]
    assert_array_equal(both, np.floor(load_digits().images * 255 / 16 + 0.5).astype(np.uint8))
    assert both.max() == 255
    assert_array_equal(load_images("digits:test").images, test.images)


def test_idx_plain_and_gzipped(grey: Path) -> None:
    plain = load_images(f"idx:{grey}")
    assert_array_equal(plain.images, np.arange(60, dtype=np.uint8).reshape(3, 5, 4, 1))
    assert_array_equal(plain.labels, [7, 0, 9])
    assert plain.labels.dtype == np.int64
    for name in (TEST_IMAGES, TEST_LABELS):
        data = (grey / name).read_bytes()
        (grey / name).unlink()
        (grey / f"{name}.gz").write_bytes(gzip.compress(data))
    zipped = load_images(f"idx:{grey}:test")
    assert_array_equal(zipped.images, plain.images)
    assert_array_equal(zipped.labels, plain.labels)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("split", ["test", "train"])
def test_idx_files_may_have_a_dot_in_their_name(grey: Path, ending: str, split: str) -> None:
    stem = "t10k" if split == "test" else "train"
    for name in (TEST_IMAGES, TEST_LABELS):
        data = (grey / name).read_bytes()
        (grey / name).unlink()
        other = name.replace("-idx", ".idx").replace("t10k", stem)
        (grey / f"{other}{ending}").write_bytes(gzip.compress(data) if ending else data)
    assert_array_equal(load_images(f"idx:{grey}:{split}").labels, [7, 0, 9])


def test_folder_defaults_to_the_variable(grey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(grey))
    assert len(load_images("idx:")) == 3
    with pytest.raises(FileError, match="train-images"):
        load_images("idx::train")
    monkeypatch.delenv(DATA_VARIABLE)
    with pytest.raises(ArgumentError, match=DATA_VARIABLE):
        load_images("idx:")


def damage(path: Path, edit: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    edit(data)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "edit", "rule"),
    [
        (TEST_IMAGES, lambda b: b.__setitem__(3, 1), "magic number 2051"),
        (TEST_LABELS, lambda b: b.__setitem__(2, 9), "magic number 2049"),
        (TEST_IMAGES, lambda b: b.pop(), "60 bytes of data"),
        (TEST_IMAGES, lambda b: b.append(0), "60 bytes of data"),
        (TEST_IMAGES, lambda b: b.__delitem__(slice(10, None)), "header of 16 bytes"),
        (TEST_IMAGES, lambda b: b.clear(), "header of 16 bytes"),
        (TEST_IMAGES, lambda b: b.__setitem__(slice(4, 16), b"\xff" * 12), "bytes of data"),
        (TEST_LABELS, lambda b: b.__setitem__(8, 10), "labels must be in 0 .. 9"),
        (TEST_LABELS, lambda b: (b.pop(), b.__setitem__(7, 2)), "one label for each of the 3"),
    ],
)
def test_bad_idx(grey: Path, file: str, edit: Callable[[bytearray], object], rule: str) -> None:
    damage(grey / file, edit)
    with pytest.raises(FileError, match=rule) as error:
        load_images(f"idx:{grey}")
    assert str(grey / file) in str(error.value)


def test_bad_gzip(grey: Path) -> None:
    (grey / TEST_IMAGES).unlink()
    for data in (b"not gzip", gzip.compress(bytes(100))[:-12]):
        (grey / f"{TEST_IMAGES}.gz").write_bytes(data)
        with pytest.raises(FileError, match=r"images-idx3-ubyte.gz: must be readable"):
            load_images(f"idx:{grey}")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=f"{TEST_IMAGES}: is missing"):
        load_images(f"idx:{tmp_path}")
    with pytest.raises(FileError, match="test_batch: is missing"):
        load_images(f"cifar10:{tmp_path}")
    with pytest.raises(FileError, match="absent: is not a folder"):
        load_images(f"idx:{tmp_path / 'absent'}")
    with pytest.raises(FileError, match="is not a file"):
        load_images(f"npz:{tmp_path}")
    with pytest.raises(FileError, match="is not a folder"):
        load_images("folder:nul\0byte")


def test_the_home_folder_is_found_and_an_empty_spec_is_none(
    grey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(grey.parent))
    images = load_images(f"idx:~/{grey.name}")
    assert (len(images), images.name) == (3, f"idx:~/{grey.name}")
    with pytest.raises(ArgumentError, match="must start with a known kind"):
        load_images(named_or_digits("data", "", DIGITS_SHAPE))


@pytest.mark.parametrize("spec", ["", "mnist", "digits:5", "Digits", "npz:", "idx", "digitstrain"])
def test_bad_specs(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(ArgumentError, match="data"):
        load_images(spec)


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return f"npz:{path}"


def test_npz_keeps_bytes_and_makes_floats_float32(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    as_bytes = load_images(save(tmp_path / "a.npz", x=pixels, y=np.array([2, 0], np.int32)))
    assert_array_equal(as_bytes.images, pixels)
    assert as_bytes.classes == ("0", "1", "2")
    as_doubles = load_images(save(tmp_path / "b.npz", x=pixels / 255.0))
    assert as_doubles.images.dtype == np.float32
    assert_array_equal(as_doubles.labels, [-1, -1])
    assert_array_equal(as_unit_float(as_bytes.images), as_unit_float(as_doubles.images))
    for names in (("images", "labels"), ("x", "labels"), ("images", "y")):
        arrays = dict(zip(names, (pixels, np.array([2, 0])), strict=True))
        renamed = load_images(save(tmp_path / "c.npz", **arrays))
        assert_array_equal(renamed.images, pixels)
        assert_array_equal(renamed.labels, [2, 0])


GOOD = np.zeros((2, 3, 3, 1))


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"y": np.zeros(2, int)}, "array x or images"),
        ({"pictures": GOOD}, "array x; received arrays: pictures"),
        ({"x": GOOD, "images": GOOD}, "x or images, not both"),
        ({"images": GOOD, "y": np.array([0, 1]), "labels": np.array([0, 1])}, "y or labels, not"),
        ({"x": GOOD[..., 0]}, "axes"),
        ({"x": GOOD[:0]}, "at least one image"),
        ({"x": GOOD.astype(np.int16)}, "uint8, float32 or float64"),
        ({"x": GOOD.reshape(2, 9)}, r"axes .*received \(2, 9\)$"),
        ({"x": GOOD + np.nan}, "not NaN; received NaN$"),
        ({"x": GOOD - 1e-9}, r"\[0, 1\].*undo the normalization"),
        ({"x": GOOD + 255}, "divide by 255"),
        ({"x": GOOD, "y": np.array([0, 1, 2])}, "one label for each of the 2"),
        ({"x": GOOD, "y": np.array([0.0, 1.0])}, "integers"),
        ({"x": GOOD, "y": np.array([[0], [1]])}, "one axis"),
        ({"x": GOOD, "y": np.array([-1, 1])}, "labels must be in"),
        ({"x": GOOD, "y": np.array([1 << 62, 1])}, "labels must be in"),
        ({"x": np.array([None, {}], dtype=object)}, "plain arrays"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], rule: str) -> None:
    spec = save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(FileError, match=rule) as error:
        load_images(spec)
    assert "bad.npz" in str(error.value)


def test_paths_without_a_kind(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, x=np.zeros(3))
    for path, kind in ((file, "npz"), (tmp_path, "folder")):
        with pytest.raises(ArgumentError, match=re.escape(f"did you mean {kind}:{path}?")):
            load_images(str(path))
    (tmp_path / "a.zip").touch()
    with pytest.raises(ArgumentError, match=r"a known kind; received .*a.zip .one of digits"):
        load_images(str(tmp_path / "a.zip"))


def cifar_batch(labels: list[int], *, protocol: int = 2) -> bytes:
    pixels = (np.arange(len(labels) * 3072) % 251).astype(np.uint8).reshape(-1, 3072)
    return pickle.dumps({b"data": pixels, b"labels": labels, b"filenames": []}, protocol)


def official_pickle(labels: list[int]) -> bytes:
    """The same batch as Python 2 wrote the official ones: byte strings, numpy.core names."""
    raw = (np.arange(len(labels) * 3072) % 251).astype(np.uint8).tobytes()
    out = b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\n"
    out += b"ndarray\nq\x04K\x00\x85U\x01b\x87R(K\x01M" + struct.pack("<H", len(labels))
    out += b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    out += b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(raw)) + raw + b"tbU\x06labels]("
    return out + b"".join(b"K" + bytes([label]) for label in labels) + b"eu."


@pytest.mark.parametrize("batch", [cifar_batch, official_pickle])
def test_cifar10_python_batches(tmp_path: Path, batch: Callable[[list[int]], bytes]) -> None:
    data = batch([3, 9])
    assert pickle.loads(data, encoding="bytes")[b"labels"] == [3, 9]
    (tmp_path / "test_batch").write_bytes(data)
    images = load_images(f"cifar10:{tmp_path}")
    planes = (np.arange(2 * 3072) % 251).astype(np.uint8).reshape(2, 3, 32, 32)
    assert_array_equal(images.images, planes.transpose(0, 2, 3, 1))
    assert_array_equal(images.labels, [3, 9])
    assert images.classes[3] == "cat"


def test_cifar10_binary_batches_and_split(tmp_path: Path) -> None:
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    for number in range(1, 6):
        (place / f"data_batch_{number}.bin").write_bytes(bytes([number]) + bytes(range(256)) * 12)
    images = load_images(f"cifar10:{tmp_path}:train")
    assert_array_equal(images.labels, [1, 2, 3, 4, 5])
    assert_array_equal(images.images[0, 0, :5, 0], [0, 1, 2, 3, 4])
    (place / "data_batch_4.bin").unlink()
    with pytest.raises(FileError, match=r"data_batch_4.bin: is missing"):
        load_images(f"cifar10:{tmp_path}:train")


class Attack:
    """Runs a command when it is unpickled the usual way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def test_pickled_code_never_runs(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    attack = pickle.dumps({b"data": Attack(f"touch {proof}")}, 2)
    (tmp_path / "test_batch").write_bytes(attack)
    with pytest.raises(FileError, match=r"posix.system is not allowed") as error:
        load_images(f"cifar10:{tmp_path}")
    assert "test_batch" in str(error.value)
    assert not proof.exists()
    pickle.loads(attack)
    assert proof.exists()  # so the attack is a real one


def test_only_the_listed_opcodes_and_memo_slots(tmp_path: Path) -> None:
    for data, rule in (
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.", "must be a CIFAR-10 batch"),  # a huge bytearray
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo slot 2147483647"),
        (b"cos\nsystem\n(S'true'\ntR.", "STRING is not allowed"),
        (b"\x80\x02cnumpy\nload\n.", "numpy.load is not allowed"),
        (b"\x80\x02c_codecs\nencode\nU\x01aU\x05rot13\x86R.", "rot13"),
    ):
        (tmp_path / "test_batch").write_bytes(data)
        with pytest.raises(FileError, match=rule):
            load_images(f"cifar10:{tmp_path}")


def nested(times: int, pair: bytes) -> bytes:
    """A mapping whose key is a tuple of tuples, each holding the one before more than once."""
    if not pair:
        return b"\x80\x02}K\x01" + b"\x85" * times + b"K\x01s."
    parts = b"".join(b"q%c0" % i + pair.replace(b"%b", b"h%c" % i) for i in range(times))
    return b"\x80\x02}K\x01\x85" + parts + b"K\x01s."


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (official_pickle([3, 10]), "labels must be in 0 .. 9"),
        (official_pickle([3])[:2000], "must be a CIFAR-10 batch"),
        (replaced(official_pickle([3, 4]), b"K\x03K\x04e", b"K\x03e"), "one label for each"),
        (replaced(official_pickle([3]), b"u1", b"O8"), "data must be uint8"),
        (replaced(official_pickle([3]), b"M\x01\x00M", b"M\x02\x00M"), "shape"),
        (nested(60, b"%b%b\x86"), "tuples in each other"),
        (nested(60, b"(%b%b%btq\xff"), "tuples in each other"),
        (nested(1_000_000, b""), "tuples in each other"),
        (replaced(official_pickle([3]), b"U\x02u1", b"K\x01\x85"), "data must be uint8"),
        (pickle.dumps([], 2), "must hold a dictionary"),
        (pickle.dumps({b"labels": [1]}, 2), "data must be an array"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": 3}, 2), "labels"),
        (official_pickle([]), "one at least"),
    ],
)
def test_bad_cifar10(tmp_path: Path, data: bytes, rule: str) -> None:
    (tmp_path / "test_batch").write_bytes(data)
    with pytest.raises(FileError, match=rule) as error:
        load_images(f"cifar10:{tmp_path}")
    assert "test_batch" in str(error.value)


def test_bad_cifar10_binary(tmp_path: Path) -> None:
    for data, rule in ((bytes(3072), "records of 3073"), (b"", "one at least")):
        (tmp_path / "test_batch.bin").write_bytes(data)
        with pytest.raises(FileError, match=rule):
            load_images(f"cifar10:{tmp_path}")


def test_unit_floats() -> None:
    every = np.arange(256, dtype=np.uint8)
    unit = as_unit_float(every)
    assert unit.dtype == np.float32
    assert_array_equal(np.rint(unit.astype(np.float64) * 255), every)
    assert_array_equal(unit, np.float32(every) / np.float32(255))
    with pytest.raises(ArgumentError, match="uint8 or float32"):
        as_unit_float(every.astype(np.int64))  # type: ignore[arg-type]


def read_quietly(spec: str) -> None:
    """Only our own errors may leave a reader, and they name a file."""
    message = "none"
    try:
        load_images(spec)
    except DualSmoothError as error:
        message = str(error)
    assert re.search(r"none|idx\d-ubyte|test_batch|bad\.npz", message)


edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6)


def edited(data: bytes | bytearray, changes: list[tuple[int, int]], keep: int) -> bytes:
    out = bytearray(data)
    for position, value in changes:
        out[position % len(out)] = value
    return bytes(out[: len(out) - keep % (len(out) + 1)])


@settings(deadline=None, derandomize=True, max_examples=150)
@given(changes=edits, cut=st.just(0) | st.integers(0, 4000))
def test_damaged_files_raise_named_errors(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    write_idx(folder, np.zeros((2, 4, 4), np.uint8), np.array([1, 2]))
    damage(folder / TEST_IMAGES, lambda b: b.__setitem__(slice(None), edited(b, changes, cut)))
    read_quietly(f"idx:{folder}")
    (folder / "test_batch").write_bytes(edited(official_pickle([1]), changes, cut))
    read_quietly(f"cifar10:{folder}")
    (folder / "test_batch").write_bytes(edited(official_pickle([1])[:150], changes, 0))
    read_quietly(f"cifar10:{folder}")
    save(folder / "good.npz", x=np.zeros((1, 2, 2, 1)), y=np.array([0]))
    (folder / "bad.npz").write_bytes(edited((folder / "good.npz").read_bytes(), changes, cut))
    read_quietly(f"npz:{folder / 'bad.npz'}")


@needs_real_data
def test_fashion_mnist() -> None:
    images = load_images(f"idx:{REAL / 'fashion_mnist'}")
    assert images.images.shape == (10000, 28, 28, 1)
    assert_array_equal(np.bincount(images.labels), np.full(10, 1000))


@needs_real_data
def test_cifar10_subset() -> None:
    images = load_images(f"npz:{REAL / 'cifar10' / 'test_lossless.npz'}")
    assert images.images.shape == (678, 32, 32, 3)
    assert len(images.classes) == 10


def test_names_of_some_classes_alone_are_refused() -> None:
    """As in a file that holds something else than names."""
    with pytest.raises(ArgumentError, match="classes must name every class of digits; received no"):
        check_classes(load_images("digits", classes=["zero"]), 10, "a bundle")
    check_classes(load_images("digits", classes=[*map(str, range(10))]), 10, "a bundle")
