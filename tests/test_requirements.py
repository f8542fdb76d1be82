"""The pinned requirements of a release: each has hashes and fits what the package asks for."""

import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dualsmooth.engine.machine import TESTED_TORCH, warn_of_untested

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("runtime", "export", "report", "parquet", "cluster", "cpu")
FILES = {
    "release.txt": PROJECT["dependencies"],
    "release-extras.txt": PROJECT["dependencies"]
    + [line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]],
}
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pinned(text: str) -> list[Requirement]:
    """Requirements of a pinned file; ValueError names a line without a hash or an exact version."""
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    found = []
    for line in filter(None, lines):
        stated, *hashes = re.split(r"\s+(?=--)", line)
        if not hashes or not all(HASH.fullmatch(entry.strip()) for entry in hashes):
            raise ValueError(f"no hash: {stated}")
        requirement = Requirement(stated)
        if [specifier.operator for specifier in requirement.specifier] != ["=="]:
            raise ValueError(f"no exact version: {stated}")
        found.append(requirement)
    return found


def unfit(wanted: list[str], pins: list[Requirement]) -> list[str]:
    """Wanted requirements that no pin meets, or that a pin breaks."""
    wrong = []
    for requirement in map(Requirement, wanted):
        versions = [
            next(iter(pin.specifier)).version
            for pin in pins
            if pin.name == requirement.name.lower()
        ]
        if not versions or not all(requirement.specifier.contains(v) for v in versions):
            wrong.append(str(requirement))
    return wrong


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_has_a_hash_and_fits(name: str) -> None:
    pins = pinned((ROOT / "requirements" / name).read_text())
    assert len(pins) > len(FILES[name])
    assert unfit(FILES[name], pins) == []


def test_what_is_missing_is_noticed() -> None:
    text = (ROOT / "requirements" / "release.txt").read_text()
    block = re.compile(r"(?m)^tqdm==\S+ \\\n(?:    --hash\S+(?: \\)?\n)+")
    found = block.search(text)
    assert found is not None
    without_hash = text.replace(found[0], found[0].split(" ")[0] + "\n")
    with pytest.raises(ValueError, match="no hash: tqdm"):
        pinned(without_hash)
    with pytest.raises(ValueError, match="no exact version: tqdm"):
        pinned(text.replace("tqdm==", "tqdm>="))
    assert unfit(["tqdm>=4.66"], pinned(text.replace(found[0], ""))) == ["tqdm>=4.66"]
    assert unfit(["torch>=2.11,<2.12"], pinned(text)) == ["torch<2.12,>=2.11"]


def test_pytorch_has_no_upper_bound_and_the_set_up_has_a_tested_one() -> None:
    (torch,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    assert all(torch.specifier.contains(v) for v in ("2.14.1", "2.15.0", "3.0.0"))
    lines = (ROOT / "requirements/constraints.txt").read_text().splitlines()
    (pin,) = (Requirement(line) for line in lines if not line.startswith("#"))
    version = next(iter(pin.specifier)).version
    assert pin.name == "torch"
    assert tuple(map(int, version.split(".")[:2])) <= TESTED_TORCH
    assert f"torch=={version} " in (ROOT / "requirements/release.txt").read_text()
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"(?m)^.*pip install.*$|^\t\$\(PIP\).*$", makefile)
    assert len(installs) == 6
    assert installs.pop() == "\tbuild/uv/bin/python -m pip install -q uv"
    assert all("$(LIMITS)" in line or line.startswith("\t$(PIP) -e ") for line in installs)


def test_a_newer_pytorch_is_told_once() -> None:
    warn_of_untested.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for version in ("2.11.0", "2.13.0+cpu", "99.0.0a0+git1", "99.0.0a0+git1"):
            warn_of_untested(version)
    (warning,) = caught
    tested = ".".join(map(str, TESTED_TORCH))
    assert f"PyTorch 99.0.0a0+git1 is newer than {tested}" in str(warning.message)


CORE = (
    *("test_api.py", "test_smooth.py", "samplers/test_agreement.py", "models/test_front_door.py"),
    *("models/test_forms.py", "models/sources/test_checkpoint.py", "test_forgeries.py"),
    *("models/sources/test_pt2_files.py", "runs/test_audit.py"),
)


@pytest.mark.slow
def test_the_core_runs_on_the_newest_pytorch(tmp_path: Path) -> None:
    source = tmp_path / "source"

    def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd)

    assert run(sys.executable, "-m", "venv", tmp_path / "venv").returncode == 0
    python = tmp_path / "venv/bin/python"
    found = run(python, "-m", "pip", "index", "versions", "torch")
    if found.returncode:
        pytest.skip(f"no package index in reach: {found.stderr.strip()[-200:]}")
    source.mkdir()
    made = run("git", "archive", "--output", tmp_path / "source.tar", "HEAD")
    assert made.returncode == 0, made.stderr
    assert run("tar", "-xf", tmp_path / "source.tar", cwd=source).returncode == 0
    installed = run(python, "-m", "pip", "install", "-q", "torch", "-e", f"{source}[export]",
                    "pytest", "hypothesis")  # fmt: skip
    assert installed.returncode == 0, installed.stderr[-2000:]
    version = run(python, "-c", "import torch; print(torch.__version__)").stdout
    assert tuple(map(int, version.split(".")[:2])) >= TESTED_TORCH, version
    tests = [f"tests/engine/{name}" for name in CORE]
    ran = run(python, "-m", "pytest", "-q", "-m", "not slow", *tests, cwd=source)
    assert ran.returncode == 0, ran.stdout[-4000:]
