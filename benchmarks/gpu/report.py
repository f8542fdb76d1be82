"""What a device pass has found so far, as files; see `__main__.py`."""

import json
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dualsmooth.benchmarks.gpu.items import DONE, FAILED, NOT_RUN

BEGUN = "begun"
LONGEST = 200
"""Characters of a text in the table; the JSON has all of it."""


class Report:
    """Items in the order in which they were met, written whenever one of them ends."""

    def __init__(self, folder: Path, name: str, minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.items: dict[str, dict[str, Any]] = {}
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
        return {name: e for name, e in self.items.items() if e["state"] in (DONE, FAILED, NOT_RUN)}

    def write(self) -> None:
        """JSON and text; the files are either the old ones or the new ones."""
        found = {"started": self.started, "minutes": self.minutes, "items": self.items}
        for path, text in (
            (self.json, json.dumps(found, indent=1, default=str) + "\n"),
            (self.table, self.text()),
        ):
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
