"""Parsers with valid files of each kind, for `dualsmooth.benchmarks.fuzz_parsers`."""

import gzip
import io
import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualsmooth.engine.anchors import read_anchors
from dualsmooth.engine.audit import audit
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data import load_images
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.memory import Memory
from dualsmooth.engine.models.bundle_files import read_bundle
from dualsmooth.engine.models.network import sha256_of
from dualsmooth.engine.readers import read_image
from dualsmooth.engine.report.cohen import read_table
from dualsmooth.engine.runlog import read_log, read_run


@dataclass(frozen=True)
class Target:
    """A parser with valid input.

    Parameters
    ----------
    seeds : list of bytes
        Valid files.
    parse : callable
        Gets a folder and a file's bytes; raises `FileError`, or an AssertionError of its own.
    is_json : bool
        Whether values inside may be replaced, too.
    share : int
        How many inputs it gets, relative to the others; fewer for slow ones.
    """

    seeds: list[bytes]
    parse: Callable[[Path, bytes], object]
    is_json: bool = False
    share: int = 20


def targets(bundle: Path, run: Path) -> dict[str, Target]:
    """All parsers, with a bundle folder and a finished run as seeds."""
    log = (run / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    index = (bundle / "bundle.json").read_bytes()
    weights = {path.name: path.read_bytes() for path in bundle.glob("*.safetensors")}
    return {
        "bundle.json": Target([index], lambda f, d: _bundle(f, d, weights), True),
        "safetensors": Target(
            [weights["classifier.safetensors"]],
            lambda f, d: _weights(f, d, index, weights),
            share=1,
        ),
        "certificates.jsonl": Target(log[:6], _log, True),
        "run.json": Target([(run / "run.json").read_bytes()], _run, True),
        "audit": Target(log[:6], lambda f, d: _audit(f, d, run), True, share=5),
        "tsv": Target([(run / "certificates.tsv").read_bytes()], _table),
        "idx": Target(_idx_seeds(), _idx),
        "npz": Target(_npz_seeds(), _npz),
        "anchors": Target([_anchors_seed()], _anchors),
        "memory": Target([_memory_seed()], _memory, True),
        "cifar pickle": Target([_cifar_pickle()], _cifar_pickle_file),
        "cifar records": Target([bytes([3]) + bytes(3072)], _cifar_records),
        "image": Target(_image_seeds(), _image),
    }


def _bundle(folder: Path, data: bytes, weights: dict[str, bytes]) -> None:
    for name, content in weights.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    (folder / "bundle.json").write_bytes(data)
    bundle = read_bundle(folder)
    for network in bundle.networks.values():
        assert isinstance(network.weights, bytes)
        assert network.sha256 == sha256_of(network.weights)
        assert network.weights in weights.values(), "weights from outside the bundle"
    assert all(0.0 < sigma < float("inf") for sigma in bundle.sigmas)


def _weights(folder: Path, data: bytes, index: bytes, weights: dict[str, bytes]) -> None:
    fields = json.loads(index)
    for entry in fields["networks"].values():
        name = entry["weights"]
        content = data if name == "classifier.safetensors" else weights[name]
        entry |= {"bytes": len(content), "sha256": sha256_of(content)}
        (folder / name).write_bytes(content)
    (folder / "bundle.json").write_text(json.dumps(fields))
    network = read_bundle(folder).networks["classifier"]
    network.build()


def _log(folder: Path, data: bytes) -> None:
    (folder / "certificates.jsonl").write_bytes(data)
    for certificate in read_log(folder):
        assert Certificate.from_json(certificate.to_json()) == certificate
        assert type(certificate.radius) in (int, float)


def _run(folder: Path, data: bytes) -> None:
    (folder / "run.json").write_bytes(data)
    assert isinstance(read_run(folder)["configuration"], dict)


def _audit(folder: Path, data: bytes, run: Path) -> None:
    """The log of an unfinished run; only image, label and time are not bound without the data."""
    if not (folder / "run.json").exists():
        (folder / "run.json").write_bytes((run / "run.json").read_bytes())
    (folder / "certificates.jsonl").write_bytes(data)
    seen = audit(folder)
    if seen.findings:
        raise FileError(folder, seen.findings[0])
    honest = [_statement(certificate) for certificate in read_log(run)]
    for certificate in seen.certificates.values():
        assert _statement(certificate) in honest, "a forged certificate was accepted"


def _statement(certificate: Certificate) -> Certificate:
    return replace(certificate, image_id=0, label=None, seconds=0.0)


def _table(folder: Path, data: bytes) -> None:
    (folder / "table.tsv").write_bytes(data)
    rows, _ = read_table(folder / "table.tsv")
    assert all(row.radius >= 0.0 for row in rows)


def _idx_seeds() -> list[bytes]:
    plain = struct.pack(">4I", 2051, 2, 4, 4) + bytes(range(32))
    return [b"0" + plain, b"1" + gzip.compress(plain), b"0" + plain[:16]]


def _idx(folder: Path, data: bytes) -> None:
    name = "t10k-images-idx3-ubyte"
    for path in folder.glob(name + "*"):
        path.unlink()
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2I", 2049, 2) + bytes([1, 2]))
    (folder / (name + (".gz" if data[:1] == b"1" else ""))).write_bytes(data[1:])
    assert load_images(f"idx:{folder}").images.shape[0] == 2


def _npz_seeds() -> list[bytes]:
    seeds = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, x=np.zeros((2, 3, 3, 1), np.uint8), y=np.array([0, 1]))
        seeds.append(file.getvalue())
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("x.npy", pickle.dumps([1]))
    return [*seeds, file.getvalue()]


def _npz(folder: Path, data: bytes) -> None:
    (folder / "data.npz").write_bytes(data)
    images = load_images(f"npz:{folder / 'data.npz'}")
    assert len(images.images) == len(images.labels)
    assert images.images.dtype in (np.uint8, np.float32)


def _cifar_pickle() -> bytes:
    return pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [3]}, 2)


def _cifar_pickle_file(folder: Path, data: bytes) -> None:
    (folder / "test_batch").write_bytes(data)
    assert load_images(f"cifar10:{folder}").images.shape[1:] == (32, 32, 3)


def _cifar_records(folder: Path, data: bytes) -> None:
    (folder / "test_batch.bin").write_bytes(data)
    assert load_images(f"cifar10:{folder}").images.shape[1:] == (32, 32, 3)


def _image_seeds() -> list[bytes]:
    from PIL import Image

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    seeds = []
    for kind in ("png", "jpeg", "bmp", "ppm", "tiff", "webp", "gif"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        seeds.append(file.getvalue())
    return seeds


def _image(folder: Path, data: bytes) -> None:
    (folder / "image.png").write_bytes(data)
    assert read_image(folder / "image.png").shape[2] in (1, 3)


def _anchors_seed() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.zeros((2, 3, 3, 1), np.uint8), sigma=np.array([0.25, 0.5]))
    return file.getvalue()


def _anchors(folder: Path, data: bytes) -> None:
    (folder / "anchors.npz").write_bytes(data)
    anchors = read_anchors(folder / "anchors.npz")
    assert all(0.0 < sigma < float("inf") for sigma in anchors.levels)


def _memory_seed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(path := Path(folder) / "memory")
        with memory.query(np.zeros((2, 2, 1), np.float32)) as query:
            query.remember(3, 0.5, 0.25)
        memory.close()
        return path.read_bytes()


def _memory(folder: Path, data: bytes) -> None:
    (folder / "memory").write_bytes(data)
    memory = Memory(folder / "memory")
    memory.close()
    assert all(0.0 < ball.radius < float("inf") for ball in memory.balls)
