"""Fuzz every parser: ``python benchmarks/fuzz_parsers.py --inputs 1000000``.

Each parser gets valid files, damaged at random. It may accept or raise its documented error; any
other error, more than 20 seconds on one input, or accepting what it must not, is a failure. What is
accepted is checked again by the target itself.
"""

import argparse
import gzip
import io
import json
import pickle
import random
import resource
import signal
import struct
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dualsmooth.engine.audit import audit
from dualsmooth.engine.certificate import Certificate, _checksum
from dualsmooth.engine.data import load_images
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.bundle_files import read_bundle
from dualsmooth.engine.models.network import sha256_of
from dualsmooth.engine.readers import read_image
from dualsmooth.engine.report.cohen import read_table
from dualsmooth.engine.runlog import read_log, read_run

SECONDS_PER_INPUT = 20
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**64, 10**400, 0.5, -0.0, 1e308, "", "\0", "../x", "a" * 9000, [],
    {}, [[]], [None], {"": None}, [1, 2, 3], "NaN",
)  # fmt: skip
ODD_BYTES = (b"\0" * 8, b"\xff" * 8, b"\n", b"}", b"[" * 5000, b"1e999", b"NaN", b"\xed\xa0\x80")


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


def damaged(seed: bytes, rng: random.Random) -> bytes:
    """Bytes with some replaced, removed, repeated or inserted."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place % len(data)] = rng.randrange(256)
        elif kind == 1 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[place : place + rng.choice((1, 2, 4, 8, 64, len(data)))]
        elif kind == 3:
            data[place:place] = rng.choice(ODD_BYTES)
        elif kind == 4:
            data[place : place + 4] = rng.randbytes(4)
        else:
            start = rng.randrange(len(data) + 1)
            data[place:place] = data[start : start + rng.randrange(1, 64)]
    return bytes(data)


def altered(value: Any, rng: random.Random) -> Any:
    """A JSON value with one value inside replaced, dropped or added."""
    value = json.loads(json.dumps(value))
    node, paths = value, []
    while isinstance(node, dict | list) and node and rng.random() < 0.85:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        paths.append((node, key))
        node = node[key]
    if not paths:
        return rng.choice(ODD_VALUES)
    holder, key = paths[-1]
    kind = rng.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("extra", "..", ""))] = rng.choice(ODD_VALUES)
    else:
        holder[key] = rng.choice(ODD_VALUES)
    return value


def spoiled(target: Target, rng: random.Random) -> bytes:
    """One input for a target."""
    seed = rng.choice(target.seeds)
    if target.is_json and rng.random() < 0.5:
        value = json.loads(seed)
        for _ in range(rng.choice((1, 1, 2, 3))):
            value = altered(value, rng)
        if isinstance(value, dict) and "checksum" in value and rng.random() < 0.8:
            unsigned = {k: v for k, v in value.items() if k not in ("checksum", "seconds")}
            value["checksum"] = _checksum(unsigned)
        return json.dumps(value).encode() + (b"\n" if seed.endswith(b"\n") else b"")
    return damaged(seed, rng)


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


def fuzz(target: Target, inputs: int, seed: int, folder: Path) -> tuple[int, list[bytes]]:
    """Try inputs; returns how many were accepted and those that broke the parser."""
    rng, accepted, broken = random.Random(seed), 0, []
    for _ in range(inputs):
        data = spoiled(target, rng)
        signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
        try:
            target.parse(folder, data)
            accepted += 1
        except FileError:
            pass
        except Exception:
            broken.append(data)
            if len(broken) <= 3:
                traceback.print_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return accepted, broken


def main() -> None:
    """Fuzz all parsers and print a line for each; exit code 1 if one broke."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs over all parsers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder, as a seed")
    parser.add_argument("--run", type=Path, required=True, help="finished run of it, as a seed")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    signal.signal(signal.SIGALRM, _too_slow)
    warnings.simplefilter("ignore")  # Pillow's, about damaged files
    broken_inputs, total = 0, 0
    known = targets(options.bundle, options.run)
    shares = sum(target.share for target in known.values())
    for name, target in known.items():
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            inputs = -(-options.inputs * target.share // shares)
            accepted, broken = fuzz(target, inputs, options.seed, Path(folder))
        broken_inputs += len(broken)
        total += inputs
        print(
            f"{name:<20}{inputs:>9} inputs {accepted:>8} accepted {len(broken):>4} broken "
            f"{time.perf_counter() - start:>8.0f} s",
            flush=True,
        )
        for data in broken[:3]:
            print("   ", data[:200])
    print(f"{total} inputs, {broken_inputs} broken")
    raise SystemExit(1 if broken_inputs else 0)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS_PER_INPUT} s on one input")


if __name__ == "__main__":
    main()
