"""Bombs and escapes: small files that would become large ones, and names that lead elsewhere."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.data.image_files import read_image
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.limits import LARGEST_DATA, LARGEST_IMAGE, check_expansion


def test_expansion_limits() -> None:
    check_expansion(Path("x"), 1, 1 << 28)
    check_expansion(Path("x"), 1 << 30, 1 << 35)
    for packed, unpacked in ((1 << 20, 1 << 29), (LARGEST_DATA, LARGEST_DATA + 1)):
        with pytest.raises(FileError, match="x: must not be a decompression bomb"):
            check_expansion(Path("x"), packed, unpacked)


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspect everything above 1 MB, to keep the bombs small."""
    monkeypatch.setattr("dualsmooth.engine.limits._UNSUSPECTED", 1_000_000)


def test_gzip_bomb(tmp_path: Path, low_limit: None) -> None:
    """5 MB of zeros in 5 kB are not unpacked."""
    with gzip.open(tmp_path / "t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4I", 2051, 5, 1000, 1000) + bytes(5_000_000))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 0))
    with pytest.raises(FileError, match="must not be a decompression bomb"):
        load_images(f"idx:{tmp_path}")


def test_gzip_that_says_less_than_it_holds(tmp_path: Path) -> None:
    head = struct.pack(">4I", 2051, 1, 2, 2)
    with gzip.open(tmp_path / "t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(head + bytes(500_000))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 0))
    with pytest.raises(FileError, match=r"must hold 4 bytes of data.*received more"):
        load_images(f"idx:{tmp_path}")


def test_zip_bomb(tmp_path: Path, low_limit: None) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((5, 1000, 1000, 1), np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 10_000
    with pytest.raises(FileError, match="must not be a decompression bomb"):
        load_images(f"npz:{tmp_path / 'bomb.npz'}")


@pytest.mark.filterwarnings("ignore:Image size")
def test_huge_image(tmp_path: Path) -> None:
    """A PNG header of 10,000 x 10,000 pixels; none of them is decoded."""
    from zlib import crc32

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">2I5B", 10_000, 10_000, 8, 0, 0, 0, 0))
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(FileError, match=f"must have at most {LARGEST_IMAGE} pixels"):
        read_image(path)
