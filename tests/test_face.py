"""`import dualsmooth`: light, complete, followed by type checkers, and the same from a wheel."""

import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def output(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT = (
    "import time; t = time.perf_counter(); import dualsmooth as ds; t = time.perf_counter() - t; "
    "import sys; print(t, ds.__version__, 'torch' in sys.modules, 'numpy' in sys.modules); "
    "assert {'certify', 'Smooth', 'load_bundle', '__version__'} <= set(dir(ds)); "
    "assert all(getattr(ds, name) for name in dir(ds) if not name.startswith('_'))"
)


def test_the_import_is_light_and_has_every_name() -> None:
    runs = [output(sys.executable, "-c", IMPORT).split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) < 0.1
    assert {tuple(rest) for _, *rest in runs} == {(VERSION, "False", "False")}


def test_the_command_is_a_module_too() -> None:
    assert output(sys.executable, "-m", "dualsmooth", "--version") == f"dualsmooth {VERSION}\n"


@pytest.mark.slow
def test_a_type_checker_follows_the_face(tmp_path: Path) -> None:
    output(sys.executable, "setup.py", "-q", "stubs", cwd=ROOT)
    user = tmp_path / "user.py"
    user.write_text(
        "import dualsmooth as ds\nv: int = ds.__version__\nds.nothing\nds.certify(1)\n"
        "from dualsmooth.engine.checks import nothing\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(user)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert 'expression has type "str", variable has type "int"' in found
    assert 'Module has no attribute "nothing"' in found
    assert 'Module "dualsmooth.engine.checks" has no attribute "nothing"' in found
    assert 'argument "images" in call to "certify"' in found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, made from its source distribution as releases are."""
    out = tmp_path_factory.mktemp("wheel")
    output(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", out, cwd=ROOT)
    make = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    output(*make, "--wheel-dir", out, next(out.glob("*.tar.gz")))
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    assert {"dualsmooth/__init__.py", "dualsmooth/py.typed", "dualsmooth/__main__.py"} <= {*names}
    parts = ("soak", "/face/", "tests", "kill_", "fuzz")
    assert not [name for name in names if any(part in name for part in parts)]
    assert {"dualsmooth/engine/data/digits.npz", "dualsmooth/engine/data/DIGITS.md"} <= {*names}
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as files:
        shipped = {name.partition("/")[2] for name in files.getnames()}
    assert {
        *("CHANGELOG.md", "CITATION.cff", "Makefile", "docs/python.md", "tests/test_face.py"),
        *("requirements/release.txt", "kernels/cpu/normals.h", "tests/reference/philox.json"),
    } <= shipped
    venv.create(tmp_path / "venv", with_pip=False)
    place = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    output(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", place, wheel)
    rest = [path for path in sys.path if path.endswith("site-packages")]
    (place / "rest.pth").write_text("\n".join(rest))
    python = tmp_path / "venv/bin/python"
    found = output(python, "-c", IMPORT + "; print(ds.__file__)", cwd=tmp_path)
    assert found.strip().endswith(str(place / "dualsmooth/__init__.py"))
    command = (python, "-m", "dualsmooth", "certify", "digits-dual", "--data", "digits")
    assert "540 images" not in output(*command, "--max", "2", "--n", "200", cwd=tmp_path)
