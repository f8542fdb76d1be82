"""Time to the first certificate: what is started, and the table of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from dualsmooth.benchmarks.speed import start


def test_a_start_is_timed_with_bytecode_and_one_that_fails_is_not(tmp_path: Path) -> None:
    taken = start.start(["-c", "import this"], str(tmp_path))
    assert 0 < taken["processor seconds"] < 60
    assert list(tmp_path.rglob("this.*.pyc"))
    with pytest.raises(Exception, match="non-zero exit status 3"):
        start.start(["-c", "raise SystemExit(3)"], str(tmp_path))


def test_the_table_has_medians_ranges_and_what_is_beyond_pytorch() -> None:
    rounds = [
        {name: {"processor seconds": busy + i, "seconds": 9.0} for name, busy in pairs}
        for i, pairs in enumerate([[(start.TORCH, 2.0), ("small", 3.0)]] * 3)
    ]
    small = start.table(rounds).splitlines()[-1]
    assert small == "| small | 4.00 (3.00 to 5.00) | 1.00 | 9.00 (9.00 to 9.00) |"


SLOW = ("torch._dynamo", "sympy", "sklearn", "matplotlib", "onnx", "ray")
"""Packages that take longer to import than a registered network needs to start."""


def test_a_registered_network_starts_without_slow_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "NETWORKS", ("resnet20",))
    words = start.prepare(tmp_path)["resnet20"][2:]
    code = (
        f"import atexit, sys\nfrom dualsmooth.engine.cli import main\nsys.argv[1:] = {words}\n"
        f"atexit.register(lambda: print(*sys.modules.keys() & set({SLOW})))\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert (tmp_path / "run" / "certificates.tsv").exists()
