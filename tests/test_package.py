"""The installed package: complete, light to import, and free of torch where promised."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dualsmooth.engine.machine import install_command, warn_of_missing_loops

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


CHECKOUT_ONLY = tuple(f"dualsmooth.benchmarks.{room}" for room in ("accuracy", "gpu", "soak"))
"""Nobody installs fuzzers and killers of processes; a checkout finds them beside the rest."""


def test_every_package_folder_is_listed() -> None:
    found = {
        "dualsmooth." + ".".join(path.parent.relative_to(ROOT).parts).removeprefix("engine.face")
        for top in ("engine", "kernels", "export", "benchmarks")
        for path in (ROOT / top).rglob("__init__.py")
    }
    packages = PYPROJECT["tool"]["setuptools"]["packages"]
    found = {name.removesuffix(".") for name in found}
    assert set(packages) == {name for name in found if not name.startswith(CHECKOUT_ONLY)}
    assert len(found) > len(packages)


NO_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        assert name.split('.')[0] != 'torch', 'torch was imported'
sys.meta_path.insert(0, Block())
"""


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(("absent", "words"), [("typer", ["--help"]), ("torch", ["doctor"])])
def test_the_command_without_its_dependencies_is_one_line(absent: str, words: list[str]) -> None:
    """On a machine that has the package for `OnnxCertifier` alone."""
    code = f"import sys; sys.modules[{absent!r}] = None; sys.argv = {['dualsmooth', *words]}\n"
    code += "from dualsmooth.engine.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    told = f"dualsmooth: needs {absent}, which is not installed (python -m pip install 'numpy>="
    assert done.stderr.startswith(told)
    assert f" '{absent}>=" in done.stderr


def test_make_certify_runs_all_its_commands() -> None:
    (code,) = re.findall(r"(?ms)^define RUNS\n(.*?)^endef", (ROOT / "Makefile").read_text())
    done = subprocess.run(
        [sys.executable, "-c", code], input="--version\n" * 3, capture_output=True, text=True
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3), done.stderr


def test_make_compiles_loops_again_that_a_pull_has_changed(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "kernels/cpu").mkdir(parents=True)
    for name in ("pyproject.toml", "setup.py", "requirements/constraints.txt", ".venv/.installed"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    make = ["make", "-q", ".venv/.installed"]
    assert subprocess.run(make, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "kernels/cpu/new.c").touch()
    os.utime(tmp_path / "kernels/cpu/new.c", (2e9, 2e9))
    assert subprocess.run(make, cwd=tmp_path, capture_output=True).returncode == 1


def test_importing_the_engine_is_quick_and_needs_no_torch() -> None:
    code = (
        "import time; t = time.perf_counter(); import dualsmooth.engine; "
        "print(time.perf_counter() - t); import sys; print('torch' in sys.modules)"
    )
    runs = [python(code).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.3
    assert {loaded for _, loaded in runs} == {"False"}


def test_statistics_methods_and_reading_need_no_torch() -> None:
    modules = [
        *("bounds", "budget", "certificate", "cluster.conductor", "data", "images", "ledger"),
        *("noise", "radius", "runs.audit", "runs.log", "runs.rederive", "report.text"),
        *("runs.certify", "runs.frontier"),
        *("methods.dual", "methods.fixed", "methods.registry", "models.bundle", "models.network"),
        *("models.registry", "models.sources.folder"),
        *("runtime.flight", "runtime.scheduler", "runtime.session", "samplers.inputs", "api"),
    ]
    reading = "\nfrom dualsmooth import load_bundle, load_images"
    reading += "\nload_images('digits'); load_bundle('digits-dual').digest"
    imports = "\n".join(f"import dualsmooth.engine.{name}" for name in modules)
    python(NO_TORCH + imports + reading)


def test_public_names_exist() -> None:
    python(
        "from dualsmooth.engine import Smooth, certify, FixedSmoothing, DualSmoothing, Budget, "
        "load_bundle; import dualsmooth.engine as e; assert all(hasattr(e, n) for n in e.__all__)"
    )


def test_digits_come_with_the_package_to_the_bit() -> None:
    """Digests of every run on digits rest on these bytes."""
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from dualsmooth import load_images\n"
        "from dualsmooth.engine.data.image_set import data_digest\n"
        "for spec in ('digits', 'digits:train'):\n"
        "    data = load_images(spec); print(data_digest(data, range(len(data))))\n"
    )
    assert python(code).split() == [
        "5e04f6ce88abdb222bb72ee0bd1179159cc9dcfc907cc10312a1fb25e2223e66",
        "1485a5105dd279b163d856c58f57975ae1d4c6af7ca130203c104184ca441882",
    ]


def test_hints_name_what_an_extra_needs_and_not_a_release() -> None:
    report = install_command("report")
    assert report == "python -m pip install 'matplotlib>=3.10' 'jinja2>=3.1'"
    assert "openvino" in install_command("cpu")
    assert "openvino" not in install_command()


def test_a_missing_compiler_is_one_line_that_is_seen() -> None:
    warn_of_missing_loops.cache_clear()
    with pytest.warns(UserWarning, match="without a C compiler: noise is drawn about ten times"):
        warn_of_missing_loops(there=False)


def test_citation_and_changelog_know_the_version() -> None:
    version = PYPROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
