"""Files that state nothing false and are still too much to look at: refused by their lists."""

import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dualsmooth.engine.data.readers import read_npz
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.limits import LARGEST_PIECE, LARGEST_RECORD
from dualsmooth.engine.models.sources.onnx_guard import MOST_FIELDS, MOST_NODES, read_with_data
from dualsmooth.engine.models.sources.pt2 import load_pt2
from dualsmooth.engine.models.sources.torch_file import load_torch_file

SECONDS = 5
"""Of the processor; without a bound most of these take a minute, some hours."""

CONFIG = "a/data/weights/model_weights_config.json"


def refused(path: Path, read: Callable[[Path], object], rule: str) -> None:
    start = time.process_time()
    with pytest.raises(FileError, match=rule) as error:
        read(path)
    assert time.process_time() - start < SECONDS
    assert len(str(error.value)) < 500


def archive(path: Path, *parts: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts:
            file.writestr(name, content)
    return path


READERS: list[Callable[[Path], object]] = [
    load_pt2,
    load_torch_file,
    lambda path: read_npz(path, "npz"),
]


@pytest.mark.parametrize("read", READERS, ids=["pt2", "checkpoint", "npz"])
def test_a_list_of_too_many_parts(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """The list at the end of the archive says how long it is."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"")
        file.filelist += file.filelist * (2 * LARGEST_PIECE // 56)
        file._didModify = True  # type: ignore[attr-defined]
    refused(path, read, f"a list or text of more than {LARGEST_PIECE} bytes")


@pytest.mark.parametrize("content", [b"[" + b"{}," * (1 << 23), b'"' + b"a" * (1 << 25)])
def test_a_program_of_too_much_json(tmp_path: Path, content: bytes) -> None:
    path = archive(tmp_path / "net.pt2", (CONFIG, content[: LARGEST_RECORD + 1]))
    refused(path, load_pt2, f"must have at most {LARGEST_RECORD} bytes of .json")
    halves = [(name, content[: LARGEST_RECORD // 2 + 1]) for name in (CONFIG, "a/model.json")]
    path = archive(tmp_path / "net.pt2", *halves)
    refused(path, load_pt2, f"must have at most {LARGEST_RECORD} bytes of .json")


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"](" + b"K\1" * (1 << 18) + b"e", "more than 262144 opcodes"),
        (b"]" * (1 << 18), "more than 262144 opcodes"),
        (b"X\1\0\x80\0" + b"a" * (1 << 23 | 1), "a list or text of more than"),
        (b"\x8b\1\0\x80\0" + b"\1" * (1 << 23 | 1), "a list or text of more than"),
        (b"I" + b"9" * (1 << 23) + b"\n", "a list or text of more than"),
        (b"c" + b"a" * (1 << 23), "a list or text of more than"),
    ],
    ids=["list", "nest", "text", "number", "decimal", "name"],
)
def test_a_pickle_of_too_much(tmp_path: Path, content: bytes, rule: str, old: bool) -> None:
    path, content = tmp_path / "net.pth", b"\x80\x02" + content + b"."
    if old:
        path.write_bytes(content)
    else:
        archive(path, ("a/data.pkl", content))
    refused(path, load_torch_file, rule)


def test_a_pickle_of_more_than_a_record(tmp_path: Path) -> None:
    path = archive(tmp_path / "net.pth", ("a/data.pkl", bytes(LARGEST_RECORD + 1)))
    refused(path, load_torch_file, f"must have at most {LARGEST_RECORD} bytes of .pkl")


def message(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


LARGE = b"\x08" + b"\xff" * 7 + b"\x0f"  # a size of 2**53


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"\x08\1" * (MOST_FIELDS + 1), f"must have at most {MOST_FIELDS} fields"),
        (message(7, message(1, b"") * (MOST_NODES + 1)), f"must have at most {MOST_NODES} nodes"),
        (message(7, message(5, LARGE * 500_000)), "a tensor of more than 64 sizes"),
        (message(7, message(5, message(1, LARGE[1:] * 500_000))), "a tensor of more than 64"),
        (
            message(7, message(1, b"".join(
                message(4, b"%d" % i) + message(7, b"%d" % i) for i in range(20_000)
            ))),
            "a node with two names",
        ),
    ],
    ids=["fields", "nodes", "sizes", "packed sizes", "names"],
)  # fmt: skip
def test_a_network_of_too_much(tmp_path: Path, content: bytes, rule: str) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    refused(tmp_path / "net.onnx", read_with_data, rule)
