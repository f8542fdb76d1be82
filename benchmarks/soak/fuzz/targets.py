"""Parsers with valid files of each kind, for `dualsmooth.benchmarks.soak.fuzz`.

What a parser accepts is checked once more here, by other means where there are any.
"""

import gzip
import io
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualsmooth.benchmarks.soak.fuzz import networks as fuzz_networks
from dualsmooth.benchmarks.soak.fuzz import runs as fuzz_runs
from dualsmooth.benchmarks.soak.fuzz.seeds import (
    Bomb,
    checkpoint_seeds,
    make_bundle,
    make_deployment,
    make_run,
    onnx_seeds,
    pt2_seeds,
)
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.image_files import read_image
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.regions.anchors import read_anchors
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.report.cohen import read_table
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.record import read_run
from dualsmooth.engine.train.checkpoints import METRICS, RECIPE, Checkpoints


@dataclass(frozen=True)
class Target:
    """A parser with its seeds: valid files, and some that must be refused.

    ``parse`` gets a folder and a file's bytes; it raises `FileError`, or an AssertionError of its
    own if the parser accepted what it must not. Values inside a file may be replaced, too, if it
    ``is_json``. ``share`` is how many inputs it gets, relative to the others; fewer for slow ones.
    """

    seeds: list[bytes]
    parse: Callable[[Path, bytes], object]
    is_json: bool = False
    share: int = 20


def targets(place: Path) -> dict[str, Target]:
    """All parsers; seeds are made in ``place``. A file ``ran`` there means that a pickle ran."""
    bundle, run, deployment = (place / name for name in ("bundle", "run", "deployment"))
    make_bundle(bundle)
    make_run(run, bundle)
    make_deployment(deployment, bundle)
    bomb = Bomb(place / "ran")
    return _files(run, bomb) | _networks(bundle, deployment, bomb)


def _files(run: Path, bomb: Bomb) -> dict[str, Target]:
    log = (run / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    return {
        "certificates.jsonl": Target(log, _log, True),
        "run.json": Target([(run / "run.json").read_bytes()], _run, True),
        "audit of run.json": Target(
            [(run / "run.json").read_bytes()], lambda f, d: fuzz_runs.audit_run(f, d, run), True, 10
        ),
        "audit": Target(log, lambda f, d: fuzz_runs.audit_log(f, d, run), True, share=10),
        "report of run.json": Target(
            [(run / "run.json").read_bytes()],
            lambda f, d: fuzz_runs.report(f, d, run, "run.json"),
            True,
            5,
        ),
        "report of log": Target(
            log, lambda f, d: fuzz_runs.report(f, d, run, "certificates.jsonl"), True, 5
        ),
        "tsv": Target([(run / "certificates.tsv").read_bytes()], _table),
        "idx": Target(_idx_seeds(), _idx),
        "npz": Target(_npz_seeds(), _npz),
        "anchors": Target([_anchors_seed()], _anchors),
        "memory": Target(_memory_seeds(), _memory, True),
        "metrics": Target(
            [b'{"step": "classifier@0.25", "epoch": 1, "loss": 0.5}\n'], _metrics, True
        ),
        "cifar pickle": Target(
            [_cifar_pickle(), pickle.dumps({b"data": bomb}), _cifar_nest()], _cifar_pickle_file
        ),
        "cifar records": Target([bytes([3]) + bytes(3072)], _cifar_records),
        "image": Target(_image_seeds(), _image),
    }


def _networks(bundle: Path, deployment: Path, bomb: Bomb) -> dict[str, Target]:
    weights = {path.name: path.read_bytes() for path in bundle.glob("*.safetensors")}
    index = (bundle / "bundle.json").read_bytes()
    stated = (deployment / "deployment.json").read_bytes()
    graphs = {path.name: path.read_bytes() for path in deployment.glob("*.onnx")}
    return {
        "bundle.json": Target([index], lambda f, d: fuzz_networks.bundle(f, d, weights), True),
        "safetensors": Target(
            [weights["classifier.safetensors"]],
            lambda f, d: fuzz_networks.safetensors(f, d, index, weights),
        ),
        "deployment.json": Target(
            [stated], lambda f, d: fuzz_networks.deployment(f, d, graphs), True
        ),
        "onnx": Target(onnx_seeds(), fuzz_networks.onnx),
        "pt2": Target(pt2_seeds(bomb), fuzz_networks.pt2, share=5),
        "checkpoint": Target(checkpoint_seeds(bomb), fuzz_networks.checkpoint, share=5),
    }


def _log(folder: Path, data: bytes) -> None:
    (folder / "certificates.jsonl").write_bytes(data)
    for certificate in read_log(folder):
        assert Certificate.from_json(certificate.to_json()) == certificate
        assert type(certificate.radius) in (int, float)


def _run(folder: Path, data: bytes) -> None:
    (folder / "run.json").write_bytes(data)
    assert isinstance(read_run(folder)["configuration"], dict)


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


def _cifar_nest() -> bytes:
    """A key that is a tuple of tuples, each holding the one before twice."""
    nest = b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(60))
    return b"\x80\x02}K\x01\x85" + nest + b"K\x01s."


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


def _memory_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(path := Path(folder) / "memory")
        memory.bind({"bundle": "0", "method": "insta(memory)"})
        with memory.query(np.zeros((2, 2, 1), np.float32)) as query:
            query.remember(3, 0.5, 0.25, 0.001)
        memory.close()
        return path.read_bytes().splitlines(keepends=True)


def _memory(folder: Path, data: bytes) -> None:
    (folder / "memory").write_bytes(data)
    memory = Memory(folder / "memory")
    with suppress(ArgumentError):
        memory.bind({"bundle": "1"})
    memory.close()
    assert all(0.0 < ball.radius < float("inf") for ball in memory.balls)


def _metrics(folder: Path, data: bytes) -> None:
    (folder / RECIPE).write_bytes(b"{}")
    (folder / METRICS).write_bytes(data)
    assert not Checkpoints(folder, {}, resume=True).metrics(), "a metric without a state"
