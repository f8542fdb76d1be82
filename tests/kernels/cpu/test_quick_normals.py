"""The short way to normals: near enough to the long one everywhere, and its bits."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from dualsmooth.kernels.cpu import noise_votes

SOURCES = Path(noise_votes.__file__).parent
HEADERS = {"avx2": ("quick_normals_avx2.h", "quick_normals.h"), "avx512": ("quick_normals.h",)}
"""Where the short way of a version is written."""

NEAR = 2.0**-43
"""Of a radius, and of a cosine or sine: together below the 2^-40 that the check of doubt allows."""

ZERO = 1148735
"""A row with a radius of zero: a word of its block 31 makes a uniform of 1."""

Build = Callable[..., ctypes.CDLL]
versions = pytest.mark.parametrize("version", HEADERS)


class Distance(ctypes.Structure):
    _fields_ = (("worst", ctypes.c_double), ("signs", ctypes.c_int64))


@pytest.fixture
def built(emulator: Build) -> Build:
    """Builds the loops beside what measures them, with a text in place of one that stands once in
    the first header of a version that has it.
    """

    def build(version: str, old: str = "", new: str = "") -> ctypes.CDLL:
        headers = [
            name for name in HEADERS[version] if (SOURCES / name).read_text().count(old) == 1
        ]
        measure = Path(__file__).with_name("quick_normals.c")
        return emulator(measure, old, new, headers[0] if old else "")

    return build


def distance(library: ctypes.CDLL, of: str, version: str, step: int = 1) -> float:
    """The largest relative distance at any float32; infinite if a sign is another."""
    found = Distance()
    library[f"distance_of_{of}_{version}"](ctypes.byref(found), ctypes.c_uint32(step))
    return float("inf") if found.signs else found.worst


def differing(library: ctypes.CDLL, version: str, first: int, rows: int, lanes: int = 4) -> int:
    count = library[f"rows_that_differ_{version}"]
    count.argtypes, count.restype = [ctypes.c_uint32, *2 * [ctypes.c_int64]], ctypes.c_int64
    return int(count(first, rows, lanes))


@versions
@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_every_float_has_a_near_radius_cosine_and_sine(
    built: Build, version: str, step: int
) -> None:
    library = built(version)
    assert distance(library, "radii", version, step) <= NEAR
    assert distance(library, "turns", version, step) <= NEAR


@versions
def test_bits_are_those_of_the_long_way(built: Build, version: str) -> None:
    library = built(version)
    assert [differing(library, version, 0, 100_000, lanes) for lanes in (3, 4)] == [0, 0]
    assert differing(library, version, ZERO, 1) == 0


@pytest.mark.parametrize(
    ("version", "old", "new", "first", "rows"),
    [
        ("avx512", "sure != 0xFF", "0", 0, 100_000),
        ("avx512", "(1 << 28) - (1 << 13)", "(1 << 27) - (1 << 13)", 0, 100_000),
        ("avx512", "zero ||", "", ZERO, 1),
        ("avx512", "block + TILE", "block + 1", 0, 1),
        ("avx2", "_mm256_testz_si256(doubt, doubt)", "1", 0, 100_000),
        ("avx2", "(1 << 28) - (1 << 13)", "(1 << 27) - (1 << 13)", 0, 100_000),
        ("avx2", "0x80000000", "0x00000000", ZERO, 1),
        ("avx2", "block + i + 8", "block + i + 1", 0, 1),
    ],
    ids=[
        f"{version} {what}"
        for version in ("avx512", "avx2")
        for what in ("no doubt", "doubt elsewhere", "a radius of zero", "other words")
    ],
)
def test_a_check_that_is_missing_is_noticed(
    built: Build, version: str, old: str, new: str, first: int, rows: int
) -> None:
    assert differing(built(version, old, new), version, first, rows) > 0


@pytest.mark.parametrize(
    ("version", "old", "new", "of"),
    [
        ("avx512", "0x1.fffff896b03c4p-2", "0x1.fffep-2", "radii"),
        ("avx512", "0x1.1a0fba1bf8a52p-3", "0x1.1a0fbap-3", "radii"),
        ("avx512", "0x1.03c1f074de4bcp-2", "0x1.03c1fp-2", "turns"),
        ("avx512", "_mm512_add_epi32(quarter, one), 30", "quarter, 30", "turns"),
        ("avx2", "0x1.00000085cd3eep-1", "0x1.00008p-1", "radii"),
        ("avx2", "0xC32DDE0C", "0xC3000000", "radii"),
        ("avx2", "0x1.03c1f074de4bcp-2", "0x1.03c1fp-2", "turns"),
        ("avx2", "c[i], s[i], odd), odd)", "c[i], s[i], odd), sign[i])", "turns"),
    ],
)
def test_other_terms_are_too_far(built: Build, version: str, old: str, new: str, of: str) -> None:
    assert distance(built(version, old, new), of, version, step=99) > NEAR
