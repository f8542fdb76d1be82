"""What is shown of text from elsewhere: nothing that acts, nothing that hides."""

import pytest

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.printable import MOST, printable


@pytest.mark.parametrize(
    "text",
    ["dual(median, interval)", "fixed(0.25)", "Ünïcödé/файл 中文.npz", "a\\b", "C:\\new", "✓", ""],
)
def test_honest_text_stays(text: str) -> None:
    assert printable(text) == text


ODD = "\x1b\x9b\n\r\t\b\0\x7f\x85\u2028\u2029\u202e\u2066\u200b\u200d\ufeff\u00ad\u034f\u2800\u3164"
ODD += "\ufe0f\U000e0041\U000e0101\ud800\ue000\u180e\u061c"


@pytest.mark.parametrize("odd", ODD)
def test_what_acts_or_hides_is_shown_as_an_escape(odd: str) -> None:
    shown = printable(f"a{odd}b")
    assert odd not in shown
    assert shown.startswith("a\\")
    assert shown.endswith("b")
    assert printable(shown) == shown
    shown.encode()
    for error in (FileError(f"x{odd}", "must be"), ArgumentError("data", "must be", f"y{odd}")):
        assert odd not in str(error)


def test_of_long_text_the_middle_is_left_out() -> None:
    shown = printable("x" * 10**6)
    assert len(shown) < MOST
    assert " .. " in shown
