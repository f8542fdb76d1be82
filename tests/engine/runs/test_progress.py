"""The progress bar, the line below it, and their silence."""

import io
import re
import sys

import pytest

from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.draws import DrawRecord
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.runs.progress import Progress
from tests.engine.conftest import STAMP

LEDGER = AlphaLedger("single", 0.001, {"classifier": 0.001})


RECORD = DrawRecord("classifier", 0.25, "CLASS_ESTIMATE", 0, 0, 100, (100, 0))


def certificate(label: int | None, predicted: int | None) -> Certificate:
    claim = Claim.of(predicted, 0.1 if predicted is not None else 0.0, 0.25, LEDGER)
    return Certificate.of(claim, STAMP, 0, label, [RECORD], 0.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def seen_by(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def test_shares_rates_and_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four certified: the 95 % interval is 6.8 to 93.2 %."""
    terminal = seen_by(monkeypatch)
    view = Progress("fixed(0.25)", 10, 6, lambda: 0.984)
    for label, predicted in ((3, 3), (3, 4), (3, None), (None, 5)):
        view.seen(certificate(label, predicted))
        view.update()
    assert view.text(2.0) == "200 votes/s, batches 98% full, certified 50% [7%, 93%]"
    view.close()
    assert "10/10" in terminal.getvalue()
    assert "certified 50%" in terminal.getvalue()


def test_every_line_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slowest case is the longest: a large set, hours to go, many votes per second."""
    terminal = seen_by(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    view = Progress("dual(median, interval)", 50_000, 12_345, lambda: 1.0)
    view._seen = view._certified = 9
    view._votes = 9_999_999
    shown = view.text(1.0)
    view.seen(certificate(3, 3))
    view.update()
    view.close()
    assert shown == "9,999,999 votes/s, batches 100% full, certified 100% [66%, 100%]"
    lines = re.split(r"[\r\n]|\x1b\[A", terminal.getvalue())
    assert max(map(len, lines)) <= 80
    assert any("12346/50000" in line for line in lines)
    assert any("certified 100% [69%, 100%]" in line for line in lines)


def test_nothing_is_printed_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    view = Progress("fixed(0.25)", 1, 0, lambda: 1.0)
    view.seen(certificate(3, 3))
    view.update()
    view.close()
    assert capsys.readouterr() == ("", "")
