"""The oldest ONNX Runtime that deployments state passes the tests of exports."""

import site
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from dualsmooth.engine.models.sources.onnx_session import OLDEST

FOLDER = Path(__file__).parent


@pytest.mark.slow
def test_the_oldest_onnx_runtime_passes(tmp_path: Path) -> None:
    """A virtual environment with that version before everything that is installed here."""
    version = ".".join(map(str, OLDEST))
    if onnxruntime.__version__.startswith(f"{version}."):
        pytest.skip(f"this is ONNX Runtime {version} already")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    wheel = f"onnxruntime=={version}.*"
    installed = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", wheel],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"{wheel} cannot be installed: {installed.stderr.strip()[-200:]}")
    (here,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    outer = [f"import site; site.addsitedir({folder!r})" for folder in site.getsitepackages()]
    (here / "outer.pth").write_text("\n".join(outer))  # with their own .pth files: editable too
    quick = ["-q", "-m", "not slow", "-p", "no:cacheprovider", str(FOLDER)]
    code = (
        "import onnxruntime, pytest, sys\n"
        f"print(onnxruntime.__version__, flush=True)\nsys.exit(pytest.main({quick!r}))"
    )
    tests = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    assert tests.returncode == 0, tests.stdout[-4000:]
    assert tests.stdout.startswith(f"{version}.")
