"""The pinned requirements of a release: each has hashes and fits what the package asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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
