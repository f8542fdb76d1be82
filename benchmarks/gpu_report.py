"""What a benchmark on a GPU found; see `gpu.py`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path


class Report:
    """What was found, and what failed; a failure does not stop the rest."""

    def __init__(self, **about: object) -> None:
        self.about, self.failed = about, dict[str, str]()
        self.checks, self.times = dict[str, object](), dict[str, object]()

    def attempt(self, into: dict[str, object], what: str, work: Callable[[], object]) -> bool:
        """Keep the result of some work, or the reason why there is none."""
        try:
            into[what] = work()
        except Exception as fault:
            self.failed[what] = f"{type(fault).__name__}: {fault}"
            print(f"FAILED {what}: {self.failed[what]}", file=sys.stderr)
        return what in into

    def write(self, folder: Path) -> None:
        """JSON, and tables as text."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(json.dumps(vars(self), indent=1) + "\n")
        (folder / "gpu.txt").write_text(as_text(self))


def as_text(report: Report) -> str:
    """Tables of the times, and what failed."""
    lines = [" ".join(map(str, report.about.values()))]
    for title, table in report.times.items():
        lines.append(f"\n{title}")
        for name, row in table.items():  # type: ignore[attr-defined]
            figures = (f"{key} {value:.4g}" for key, value in row.items())
            lines.append(f"  {name:<26}" + "  ".join(figures))
    lines += [f"\nFAILED {what}: {why}" for what, why in report.failed.items()]
    return "\n".join(lines) + "\n"
