"""What a device pass has found so far, as files; see `__main__.py`."""

import hashlib
import json
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from dualsmooth.benchmarks.gpu.child import PARTS
from dualsmooth.benchmarks.gpu.items import DONE, FAILED, NOT_RUN

BEGUN = "begun"
LONGEST = 200
"""Characters of a text in the table; the JSON has all of it."""


class Report:
    """Items in the order in which they were met, written whenever one of them ends.

    ``stamp`` says what they are about, ``earlier`` holds what is done of it already, and ``copy`` a
    second place for the figures.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        minutes: float,
        stamp: str = "",
        earlier: dict[str, dict[str, Any]] | None = None,
        copy: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.items: dict[str, dict[str, Any]] = {}
        self.stamp, self.earlier, self._copy = stamp, earlier or {}, copy or folder
        self.minutes, self.started = minutes, time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self.json, self.table = folder / f"{name}.json", folder / f"{name}.txt"
        self.failures, self.log = folder / f"{name}_failures.txt", folder / f"{name}.log"
        for path in (self.json, self.table, self.failures, self.log):
            path.unlink(missing_ok=True)

    def tell(self, event: dict[str, Any]) -> None:
        """Take one event."""
        name, kind = event.pop("item"), event.pop("event")
        entry = self.items.setdefault(name, {})
        if kind == "begin":
            entry.update(state=BEGUN, began=time.monotonic(), limit=event["limit"])
            return
        trace = event.pop("traceback", None)
        if trace:
            with self.failures.open("a", encoding="utf-8") as file:
                file.write(f"== {name}\n{trace}\n")
        entry.update(event)
        if kind != "partly":
            entry["state"] = kind
            entry.pop("began", None)
            entry.pop("limit", None)
            reason = event.get("reason", "")
            print(f"{kind:<8}{event.get('seconds', 0.0):7.1f} s  {name}  {reason}", file=sys.stderr)
        self.write()

    def overdue(self, names: Collection[str], deadline: float, grace: float) -> str:
        """Why the process of these items must be given up now; empty if it need not be."""
        now = time.monotonic()
        if now > deadline + grace:
            return "cut off at the end of the time"
        for entry in [self.items[name] for name in names if name in self.items]:
            if entry["state"] == BEGUN and now > entry["began"] + entry["limit"] + grace:
                return f"no end in {entry['limit']:.0f} s"
        return ""

    def cut_off(self, names: Collection[str], reason: str) -> None:
        """Those of the items that had begun have failed."""
        for name in names:
            entry = self.items.get(name, {"state": NOT_RUN})
            if entry["state"] == BEGUN:
                seconds = time.monotonic() - entry["began"]
                self.tell({"item": name, "event": FAILED, "reason": reason, "seconds": seconds})

    def ended(self) -> dict[str, dict[str, Any]]:
        """Items that are over, for the next process."""
        return self.earlier | {
            name: e for name, e in self.items.items() if e["state"] in (DONE, FAILED, NOT_RUN)
        }

    def write(self) -> None:
        """JSON and text; the files are either the old ones or the new ones."""
        found = {"started": self.started, "minutes": self.minutes, "stamp": self.stamp}
        whole = json.dumps(found | {"items": self.items}, indent=1, default=str) + "\n"
        self._copy.mkdir(parents=True, exist_ok=True)
        paths = {self.json: whole, self._copy / self.json.name: whole, self.table: self.text()}
        for path, text in paths.items():
            part = path.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)

    def text(self) -> str:
        """A table for people; what failed comes last."""
        lines = []
        for name, entry in self.items.items():
            if entry.get("result") is not None:
                note = "" if entry["state"] == DONE else f"  ({entry['state']})"
                lines += [f"{name}{note}", *_lines(entry["result"], 2)]
        for name, entry in self.items.items():
            if entry["state"] != DONE:
                lines.append(f"{entry['state'].upper()} {name}: {entry.get('reason', '')}")
        count = sum(entry["state"] == DONE for entry in self.items.values())
        return "\n".join([*lines, f"{count} of {len(self.items)} items done"]) + "\n"


def stamp_of(device: str, tiny: bool) -> str:
    """What figures are about: these sources, on this device, with these libraries."""
    root, seen = Path(__file__).parents[2], hashlib.sha256()
    for room in ("engine", "kernels", "export", "benchmarks/gpu", "benchmarks/speed", "tests"):
        for path in sorted(p for p in (root / room).rglob("*") if p.suffix in (".py", ".cu", ".h")):
            seen.update(str(path.relative_to(root)).encode() + path.read_bytes())
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, tiny {tiny}"
    return f"{seen.hexdigest()[:16]} on {name} with torch {torch.__version__}"


def done_before(folder: Path, stamp: str) -> dict[str, dict[str, Any]]:
    """What earlier commands of the same stamp have done, of any part."""
    found = dict[str, dict[str, Any]]()
    for path in [folder / f"device_{part}.json" for part in PARTS]:
        told = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if told.get("stamp") == stamp:
            found |= {name: e for name, e in told["items"].items() if e["state"] == DONE}
    return found


def seconds_of(folder: Path, part: int) -> dict[str, float]:
    """What the items of a part took in the pass whose figures lie in a folder, if any do."""
    path = folder / f"device_{part}.json"
    items = json.loads(path.read_text("utf-8"))["items"] if path.exists() else {}
    return {name: entry["seconds"] for name, entry in items.items() if "seconds" in entry}


def _lines(value: Any, indent: int) -> list[str]:
    """Nested figures; rows of equal keys on one line each."""
    pad = " " * indent
    if not isinstance(value, dict):
        return [f"{pad}{line}" for line in str(_short(value)).splitlines()]
    lines, plain = list[str](), list[str]()
    for key, part in value.items():
        if not isinstance(part, dict):
            plain.append(f"{key} {_short(part)}")
        elif any(isinstance(inner, dict) for inner in part.values()):
            lines += [f"{pad}{key}", *_lines(part, indent + 2)]
        else:
            figures = "  ".join(f"{k} {_short(v)}" for k, v in part.items())
            lines.append(f"{pad}{key:<26}  {figures}")
    return ([pad + "  ".join(plain)] if plain else []) + lines


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " .."
