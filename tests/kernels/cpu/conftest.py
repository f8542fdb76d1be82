"""The loops of chains built with an emulation of instructions that this processor may lack."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dualsmooth.kernels.cpu import bf16_conv, chains, int8_conv, noise_votes

HERE = Path(__file__).parent
SOURCES = Path(chains.__file__).parent
Build = Callable[[str, str, str], None]


def forget() -> None:
    """Let the loops be looked for and proved again."""
    chains.library_of.cache_clear()
    bf16_conv.trouble.cache_clear()
    int8_conv.has_tiles.cache_clear()


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], ctypes.CDLL]:
    """Builds the loops of a kind, with one text put in place of another that stands there once."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not noise_votes.available() or noise_votes.best_version() != "avx512":
        pytest.skip("needs a C compiler and AVX-512")
    built: dict[tuple[str, str, str], ctypes.CDLL] = {}

    def build(kind: str, old: str, new: str) -> ctypes.CDLL:
        if (kind, old, new) not in built:
            folder = tmp_path_factory.mktemp("loops")
            names = ("chains.h", "lanes.h", "tiles.h", f"{kind}_conv.c")
            texts = {name: (SOURCES / name).read_text() for name in names}
            assert not old or sum(text.count(old) for text in texts.values()) == 1, old
            for name, text in texts.items():
                (folder / name).write_text(text.replace(old, new) if old else text)
            options = ["-O1", "-ffp-contract=off", "-fPIC", "-shared", "-I", str(HERE)]
            files = ["-include", "emulated.h", str(folder / f"{kind}_conv.c")]
            library = folder / "loops.so"
            subprocess.run([compiler, *options, *files, "-o", str(library)], check=True)
            built[kind, old, new] = ctypes.CDLL(str(library))
        return built[kind, old, new]

    return build


@pytest.fixture
def emulated(
    emulator: Callable[[str, str, str], ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Build]:
    """Lets the loops of a kind be emulated, with an error in them if one is named."""

    def use(kind: str, old: str = "", new: str = "") -> None:
        library = emulator(kind, old, new)
        monkeypatch.setattr(chains, "compiled", {f"{kind}_conv": library}.get)
        forget()

    use("bf16")
    yield use
    monkeypatch.undo()
    forget()
