"""Editors and type checkers follow `dualsmooth.*` into a plain editable install."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_type_checker_sees_types_and_names_that_are_not_there(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "setup.py", "-q", "stubs"], cwd=ROOT, check=True)
    user = tmp_path / "user.py"
    user.write_text(
        "from dualsmooth.engine import Budget\n"
        "from dualsmooth.engine.checks import nothing\n"
        "budget: int = Budget.fixed()\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(user)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert 'expression has type "Budget", variable has type "int"' in found
    assert 'Module "dualsmooth.engine.checks" has no attribute "nothing"' in found
    assert "Found 2 errors" in found
