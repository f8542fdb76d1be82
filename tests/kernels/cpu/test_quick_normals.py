"""The short way to normals: near enough to the long one everywhere, and its bits."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from dualsmooth.kernels.cpu import noise_votes

SOURCES = Path(noise_votes.__file__).parent
NAMES = ("noise_votes.c", "normals.h", "normals_avx512.h", "quick_normals.h")
NEAR = 2.0**-43
"""Of a radius, and of a cosine or sine: together below the 2^-40 that the check of doubt allows."""

ZERO = 1148735
"""A row with a radius of zero: a word of its block 31 makes a uniform of 1."""

Build = Callable[[str, str], ctypes.CDLL]


class Distance(ctypes.Structure):
    _fields_ = (("worst", ctypes.c_double), ("signs", ctypes.c_int64))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds the loops beside what measures them, with a text in place of one that stands once."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not noise_votes.available() or noise_votes.best_version() != "avx512":
        pytest.skip("needs a C compiler and AVX-512")

    @cache
    def build(old: str, new: str) -> ctypes.CDLL:
        folder = tmp_path_factory.mktemp("normals")
        texts = {name: (SOURCES / name).read_text() for name in NAMES}
        assert not old or texts["quick_normals.h"].count(old) == 1, old
        for name, text in texts.items():
            (folder / name).write_text(text.replace(old, new) if old else text)
        measure, library = Path(__file__).with_name("quick_normals.c"), folder / "normals.so"
        options = ["-O1", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared"]
        subprocess.run(
            [compiler, *options, "-I", str(folder), str(measure), "-o", str(library)], check=True
        )
        return ctypes.CDLL(str(library))

    return build


def distance(library: ctypes.CDLL, of: str, step: int = 1) -> float:
    """The largest relative distance at any float32; infinite if a sign is another."""
    found = Distance()
    library[f"distance_of_{of}"](ctypes.byref(found), ctypes.c_uint32(step))
    return float("inf") if found.signs else found.worst


def differing(library: ctypes.CDLL, first: int, rows: int, lanes: int = 4) -> int:
    count = library.rows_that_differ
    count.argtypes, count.restype = [ctypes.c_uint32, *2 * [ctypes.c_int64]], ctypes.c_int64
    return int(count(first, rows, lanes))


@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_every_float_has_a_near_radius_cosine_and_sine(built: Build, step: int) -> None:
    library = built("", "")
    assert distance(library, "radii", step) <= NEAR
    assert distance(library, "turns", step) <= NEAR


def test_bits_are_those_of_the_long_way(built: Build) -> None:
    library = built("", "")
    assert [differing(library, 0, 100_000, lanes) for lanes in (3, 4)] == [0, 0]
    assert differing(library, ZERO, 1) == 0


@pytest.mark.parametrize(
    ("old", "new", "first", "rows"),
    [
        ("sure != 0xFF", "0", 0, 100_000),
        ("(1 << 28) - (1 << 13)", "(1 << 27) - (1 << 13)", 0, 100_000),
        ("zero ||", "", ZERO, 1),
        ("block + TILE", "block + 1", 0, 1),
    ],
    ids=["no doubt", "doubt elsewhere", "a radius of zero", "other words"],
)
def test_a_check_that_is_missing_is_noticed(
    built: Build, old: str, new: str, first: int, rows: int
) -> None:
    assert differing(built(old, new), first, rows) > 0


@pytest.mark.parametrize(
    ("old", "new", "of"),
    [
        ("0x1.fffff896b03c4p-2", "0x1.fffep-2", "radii"),
        ("0x1.1a0fba1bf8a52p-3", "0x1.1a0fbap-3", "radii"),
        ("0x1.03c1f074de4bcp-2", "0x1.03c1fp-2", "turns"),
        ("_mm512_add_epi32(quarter, one), 30", "quarter, 30", "turns"),
    ],
)
def test_other_terms_are_too_far(built: Build, old: str, new: str, of: str) -> None:
    assert distance(built(old, new), of, step=99) > NEAR
