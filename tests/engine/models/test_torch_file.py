"""Small torch files that ask for endless work or memory, in both of PyTorch's formats."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.models.sources.torch_file import load_torch_file


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def zipped(content: bytes, stored: int = 40) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/data/0", bytes(stored))
        archive.writestr("a/version", "3\n")
    return file.getvalue()


def legacy(content: bytes) -> bytes:
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, about)]
    return b"".join(head) + content + pickle.dumps([], 2)


def doubling(times: int, make: bytes) -> bytes:
    """An object that holds the one before twice, and so on."""
    return b"K\x01" + b"".join(b"q%ch%c%b" % (i, i, make) for i in range(times))


def tensor(values: int, size: int, stride: int, old: bool) -> bytes:
    """A mapping with one tensor in a storage of a stated number of values."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += number(values) + (b"N" if old else b"") + b"tQ"
    sizes = b"K\x00" + number(size) + b"\x85" + number(stride) + b"\x85\x89"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + sizes
    return b"\x80\x02}" + text("x") + made + b"ccollections\nOrderedDict\n)RtRs."


def entry(value: bytes) -> bytes:
    return b"\x80\x02}" + text("arch") + value + b"s."


ENCODE = b"c_codecs\nencode\n"
HEX = b"".join(ENCODE + b"h%c" % i + text("hex") + b"\x86Rq%c" % (i + 1) for i in range(40))
BOMBS = {
    "tuple": entry(doubling(60, b"\x86")),
    "key": b"\x80\x02}" + doubling(60, b"\x86") + b"K\x01s.",
    "set": entry(b"c__builtin__\nset\n(" + doubling(60, b"\x86") + b"tR"),
    "deep key": b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x01s.",
    "codec": entry(text("a") + b"q\x00" + HEX),
    "empty tensor": entry(b"ctorch\nFloatTensor\n" + number(2**31 - 1) + b"\x85R"),
    "bytearray": entry(b"c__builtin__\nbytearray\n" + number(2**31 - 1) + b"\x85R"),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_unread(tmp_path: Path, name: str, old: bool) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(legacy(BOMBS[name]) if old else zipped(BOMBS[name]))
    with pytest.raises(FileError, match=r"bad\.pth: must be a torch checkpoint .*ValueError"):
        load_torch_file(path)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("values", "size", "stride"),
    [(2**31 - 1, 10, 1), (10, 2**31 - 1, 1), (10, 10, 2**30), (10, 2**20, 1)],
)
def test_tensors_fit_their_storage(
    tmp_path: Path, values: int, size: int, stride: int, old: bool
) -> None:
    content = tensor(values, size, stride, old)
    (tmp_path / "bad.pth").write_bytes(legacy(content) if old else zipped(content))
    with pytest.raises(FileError, match=r"storages of \d+ values|a tensor of .* in a storage of"):
        load_torch_file(tmp_path / "bad.pth")


def test_a_storage_without_content_is_refused(tmp_path: Path) -> None:
    """PyTorch alone reads it: the weights are what stood in memory."""
    path = tmp_path / "bad.pth"
    path.write_bytes(legacy(tensor(10, 10, 1, True)))
    assert torch.load(path, weights_only=True)["x"].shape == (10,)
    with pytest.raises(FileError, match="storages without content"):
        load_torch_file(path)
    path.write_bytes(zipped(tensor(10, 10, 1, False)))
    assert set(load_torch_file(path)) == {"x"}


@pytest.mark.parametrize("make", [list, tuple, lambda pair: {1: pair[0], 2: pair[1]}])
def test_a_shared_architecture_is_no_endless_message(tmp_path: Path, make: Any) -> None:
    shared: Any = "x"
    for _ in range(40):
        shared = make([shared, shared])
    loop: list[Any] = []
    loop.append(loop)
    for arch in (shared, loop):
        torch.save({"arch": arch, "state_dict": {}}, tmp_path / "bad.pth")
        with pytest.raises(FileError) as caught:
            load_bundle(tmp_path / "bad.pth")
        assert len(str(caught.value)) < 400


def test_compressed_and_overlapping_parts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(5_000_000))
    with pytest.raises(FileError, match="decompression bomb"):
        load_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", bytes(5000))
        archive.filelist += archive.filelist * 9
    with pytest.raises(FileError, match="decompression bomb"):
        load_torch_file(path)
