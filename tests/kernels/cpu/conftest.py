"""The loops built with an emulation of instructions that this processor may lack."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from dualsmooth.kernels.cpu import (
    bf16_conv,
    chains,
    direct_conv,
    int8_conv,
    linear,
    noise_votes,
    winograd_conv,
)
from dualsmooth.kernels.cpu.compiled import compiled

HERE = Path(__file__).parent
SOURCES = Path(chains.__file__).parent
Build = Callable[[str, str, str], None]

WIDTHS = {16: "", 8: "_avx2"}
"""Values of a vector, and what stands behind the name of a library with such ones."""


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ctypes.CDLL]:
    """Builds a file and what it includes, with AVX-512 and all beyond emulated by AVX2, and with
    one text put in place of another in the file where that stands once.
    """
    compiler, flags = shutil.which("gcc"), ("-ffp-contract=off", "-fno-math-errno")

    @cache
    def build(file: Path, old: str = "", new: str = "", within: str = "") -> ctypes.CDLL:
        if compiler is None or not noise_votes.available() or noise_votes.best_version() == "plain":
            pytest.skip("needs gcc and AVX2")
        folder = tmp_path_factory.mktemp("loops")
        texts = included(file)
        holds = [name for name in texts if old and texts[name].count(old) and within in name]
        assert len(holds) == bool(old), (old, holds)
        for name in holds:
            assert texts[name].count(old) == 1, old
            texts[name] = texts[name].replace(old, new)
        for name, text in texts.items():
            (folder / name).write_text(re.sub('"avx512[^"]*"', '"avx2,fma"', text))
        options = [*flags, "-mavx2", "-mfma", "-Wno-psabi", "-fPIC", "-shared", "-I", str(HERE)]
        how = ("-O1", "emulated.h") if "tiles.h" in texts else ("-Og", "avx512.h")
        files = [how[0], "-include", how[1], str(folder / file.name)]
        library = folder / "loops.so"
        subprocess.run([compiler, *options, *files, "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))

    return build


def included(file: Path) -> dict[str, str]:
    """The texts of a file and of those of the loops that it includes, by name."""
    texts = {file.name: file.read_text()}
    for name in re.findall('#include "(.+)"', texts[file.name]):
        texts |= included(SOURCES / name)
    return texts


@pytest.fixture
def use_width(
    monkeypatch: pytest.MonkeyPatch, emulator: Callable[..., ctypes.CDLL]
) -> Iterator[Callable[[int], None]]:
    """Has the loops of one width used; skips where this processor or installation lacks them."""
    libraries = {module: module._library for module in (direct_conv, linear, winograd_conv)}

    def use(width: int) -> None:
        def vectored(name: str) -> tuple[ctypes.CDLL, int]:
            library = compiled(name + WIDTHS[width])
            lanes = library[f"dualsmooth_{name}_lanes"]() if library else 0
            if library is None or (not lanes and width == 8):
                pytest.skip("needs the compiled loops and AVX2")
            return library if lanes else emulator(SOURCES / f"{name}.c"), width

        for module, kept in libraries.items():
            monkeypatch.setattr(module, "vectored", vectored)
            kept.cache_clear()
        vectored("direct_conv")

    yield use
    for kept in libraries.values():
        kept.cache_clear()


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, use_width: Callable[[int], None]) -> int:
    use_width(request.param)
    return int(request.param)


def forget() -> None:
    """Let the loops be looked for and proved again."""
    chains.library_of.cache_clear()
    bf16_conv.trouble.cache_clear()
    int8_conv.has_tiles.cache_clear()


@pytest.fixture
def emulated(
    emulator: Callable[..., ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Build]:
    """Lets the loops of a kind be emulated, with an error in them if one is named."""

    def use(kind: str, old: str = "", new: str = "") -> None:
        library = emulator(SOURCES / f"{kind}_conv.c", old, new)
        monkeypatch.setattr(chains, "compiled", {f"{kind}_conv": library}.get)
        forget()

    use("bf16")
    yield use
    monkeypatch.undo()
    forget()


@pytest.fixture
def int8_loops(request: pytest.FixtureRequest) -> None:
    """Loops for 8-bit integers, emulated where this processor lacks their instructions."""
    if not int8_conv.available():
        request.getfixturevalue("emulated")("int8")


@pytest.fixture
def use(
    emulator: Callable[..., ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Lets the noise of a version be drawn, emulated where this processor lacks it."""
    versions, library = noise_votes.VERSIONS, noise_votes._library
    own = versions[: versions.index(noise_votes.best_version()) + 1]

    def choose(version: str) -> None:
        monkeypatch.undo()
        if version not in own:
            emulated = emulator(SOURCES / "noise_votes.c")
            monkeypatch.setattr(noise_votes, "compiled", lambda name: emulated)
        library.cache_clear()

    yield choose
    monkeypatch.undo()
    library.cache_clear()
