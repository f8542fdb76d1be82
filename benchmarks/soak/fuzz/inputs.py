"""Damaged files for `dualsmooth.benchmarks.soak.fuzz`: bytes or JSON values changed."""

import json
import random
from contextlib import suppress
from typing import Any

from dualsmooth.engine.records import checksum, digest_of

ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**64, 10**400, 0.5, -0.0, 1e308, "", "\0", "../x", "a" * 9000, [],
    {}, [[]], [None], {"": None}, [1, 2, 3], "NaN", "0.5", ["0.5"], -1.0, 5e-324, 2**53 + 1, "/",
    "\x1b[2J\n", "\u202e\u200b", "\ud800", "</script><script>alert(1)</script>", "npz:/dev/zero",
    "| [a](b) `c`", [-0.25, 0.5], {"__proto__": 1},
)  # fmt: skip
ODD_BYTES = (
    b"\0" * 8,
    b"\xff" * 8,
    b"\n",
    b"}",
    b"[" * 5000,
    b"1e999",
    b"NaN",
    b"\xed\xa0\x80",
    b"-Infinity",
    b"\\ud800",
    b'"n":1,"n":2,',
    b"9" * 5000,
    b"\x1b]0;\x07",
    b"\0" * 70_000,
)


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


def signed(value: Any) -> Any:
    """A JSON record with the checksum, fingerprint or digest that fits its content."""
    if not isinstance(value, dict):
        return value
    rest = {k: v for k, v in value.items() if k not in ("checksum", "seconds", "digest")}
    with suppress(ValueError, TypeError):
        if "checksum" in value:
            value["checksum"] = checksum(rest)
        if "fingerprint" in value and "configuration" in value:
            value["fingerprint"] = digest_of(
                {k: value.get(k) for k in ("configuration", "machine")}
            )
        if "digest" in value:
            value["digest"] = digest_of(rest)
    return value


def spoiled(seeds: list[bytes], is_json: bool, rng: random.Random) -> bytes:
    """One input made from one of the seeds."""
    seed = rng.choice(seeds)
    if not is_json or rng.random() < 0.5:
        return damaged(seed, rng)
    value = json.loads(seed)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = altered(value, rng)
    if rng.random() < 0.8:
        value = signed(value)
    return json.dumps(value).encode() + (b"\n" if seed.endswith(b"\n") else b"")
