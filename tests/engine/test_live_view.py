"""The line beside the progress bar, and its silence."""

import io
import sys

import pytest

from dualsmooth.engine.certificate import AlphaLedger, Certificate
from dualsmooth.engine.live_view import LiveView

LEDGER = AlphaLedger("single", 0.001, {"classifier": 0.001})


def certificate(label: int | None, predicted: int | None) -> Certificate:
    return Certificate(
        predicted=predicted, radius=0.1 if predicted is not None else 0.0, sigma=0.25,
        method="fixed(0.25)", abstained_at=None, alpha=LEDGER, bounds=(), label=label, draws=100,
    )  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_shares_rates_and_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four certified: the 95 % interval is 6.8 to 93.2 %."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    view = LiveView("fixed(0.25)", 10, 6, lambda: 0.984)
    for label, predicted in ((3, 3), (3, 4), (3, None), (None, 5)):
        view.seen(certificate(label, predicted))
        view.update()
    assert view.text(2.0) == "200 votes/s, 98% full, certified 50% [7%, 93%]"
    view.close()
    assert "10/10" in terminal.getvalue()
    assert "certified 50%" in terminal.getvalue()


def test_nothing_is_printed_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView("fixed(0.25)", 1, 0, lambda: 1.0)
    view.seen(certificate(3, 3))
    view.update()
    view.close()
    assert capsys.readouterr() == ("", "")
