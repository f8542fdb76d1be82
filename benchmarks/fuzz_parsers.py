"""Fuzz every parser: ``python benchmarks/fuzz_parsers.py --inputs 1000000``.

Each parser gets valid files, damaged at random. It may accept or raise its documented error; any
other error, more than 20 seconds on one input, or accepting what it must not, is a failure. What is
accepted is checked again by the target itself.
"""

import argparse
import json
import random
import resource
import signal
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from dualsmooth.benchmarks.fuzz_targets import Target, targets
from dualsmooth.engine.certificate import checksum
from dualsmooth.engine.errors import FileError

SECONDS_PER_INPUT = 20
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**64, 10**400, 0.5, -0.0, 1e308, "", "\0", "../x", "a" * 9000, [],
    {}, [[]], [None], {"": None}, [1, 2, 3], "NaN",
)  # fmt: skip
ODD_BYTES = (b"\0" * 8, b"\xff" * 8, b"\n", b"}", b"[" * 5000, b"1e999", b"NaN", b"\xed\xa0\x80")


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
            value["checksum"] = checksum(unsigned)
        return json.dumps(value).encode() + (b"\n" if seed.endswith(b"\n") else b"")
    return damaged(seed, rng)


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
