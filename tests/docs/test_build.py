"""The site builds without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_site_builds_strictly(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="needs the extra docs")
    if not (ROOT / "typings/dualsmooth/engine").exists():
        pytest.skip("needs the stubs that an editable install, make lint and make docs write")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING -" not in built.stderr
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    for name in (
        "Lower and upper bounds",
        "clopper_pearson_lower",
        "DualSmoothing",
        "CertifiedClassifier",
    ):
        assert name in api
