"""Three users, each with the wheel in a clean environment beside the libraries they have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BESIDE = ("torch", "torchvision", "timm", "transformers", "pytest", "hypothesis")
EXTRAS = "[timm,hf,export,report,pandas]"
CUDA_ALONE = """

if not _has_ops():
    for _name in ("nms", "qnms"):
        _text = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{_name}", _text)
"""
"""PyPI's torchvision is built for CUDA. Beside a PyTorch for processors its two operators that are
named without a guard are declared, not loaded: nothing here calls them.
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=variables)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
def test_three_users_from_a_wheel(tmp_path: Path) -> None:
    pip = ("-m", "pip", "install", "-q", "-c", ROOT / "requirements/constraints.txt")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python, source = tmp_path / "venv/bin/python", tmp_path / "source"
    source.mkdir()
    run("git", "archive", "--output", tmp_path / "source.tar", "HEAD")
    run("tar", "-xf", tmp_path / "source.tar", cwd=source)
    if subprocess.run([python, *pip, *BESIDE], capture_output=True).returncode:
        pytest.skip("no package index in reach")
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("dualsmooth-*.whl")
    run(python, *pip, f"{wheel}{EXTRAS}")
    folder = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    if "+cpu" in run(python, "-c", "import torch; print(torch.__version__)"):
        with Path(folder, "torchvision/extension.py").open("a") as file:
            file.write(CUDA_ALONE)
    assert "site-packages" in run(python, "-c", "import dualsmooth; print(dualsmooth.__file__)",
                                  cwd=tmp_path)  # fmt: skip
    (tmp_path / "work").mkdir()
    script = source / "tests/users/three_users.py"
    print(run(python, script, cwd=tmp_path / "work"))
    tests = [source / f"tests/engine/models/sources/test_{name}.py" for name in ("hf", "timm")]
    print(run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=source))
