"""How a long check begins and ends: its arguments; what it found, how long it took and where."""

import argparse
import time
from pathlib import Path
from typing import Any

from dualsmooth.engine.files import write_json
from dualsmooth.engine.machine import machine


def arguments(about: str | None, **counts: int) -> argparse.ArgumentParser:
    """A parser with numbers and their defaults, a seed, and a file to write."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    for name, count in {**counts, "seed": 0}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=count)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def tell(result: dict[str, Any], out: Path | None, start: float) -> None:
    """Write what was found since ``start`` (`time.perf_counter`), if there is a file for it."""
    seconds = round(time.perf_counter() - start)
    if out is not None:
        write_json(out, result | {"seconds": seconds, "machine": machine()})
