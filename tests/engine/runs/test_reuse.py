from dataclasses import replace
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from dualsmooth.engine.certificate import Certificate, Claim, DrawRecord, Stamp
from dualsmooth.engine.draws import Draw, Phase
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.runs.log import RunLog
from dualsmooth.engine.runs.reuse import VOTES_DEPEND_ON, Votebook

CONFIGURATION = dict.fromkeys(VOTES_DEPEND_ON, 1)
STAMP = Stamp(
    method="fixed(0.25)", seed=0, attempt=0, bundle="", precision="", device="", sampler="",
    batch_size=0,
)  # fmt: skip
DRAW = Draw("m", 0.25, Phase.CLASS_ESTIMATE, 100, 50, 2)


@pytest.fixture
def book(tmp_path: Path) -> Votebook:
    record = DrawRecord("m", 0.25, "CLASS_ESTIMATE", 2, 100, 50, (20, 29, 1))
    claim = Claim.of(None, 0.0, 0.25, AlphaLedger("single", 0.001, {"classifier": 0.001}))
    certificate = Certificate.of(claim, STAMP, 7, None, [record], 0.0)
    log = RunLog(tmp_path / "run", CONFIGURATION)
    log.append(certificate)
    log.close()
    return Votebook.read([tmp_path / "run"], CONFIGURATION)


def test_a_recorded_draw_is_found(book: Votebook) -> None:
    votes = book.find(7, DRAW)
    assert votes is not None
    assert_array_equal(votes, [20, 29, 1])


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"sigma": 0.5},
        {"phase": Phase.CLASS_GUESS},
        {"level": 0},
        {"first": 0},
        {"count": 51},
    ],
    ids=str,
)
def test_any_other_draw_is_not(book: Votebook, change: dict[str, object]) -> None:
    """Votes of another network, level, phase or sample would be reused noise or plainly wrong."""
    assert book.find(7, replace(DRAW, **change)) is None  # type: ignore[arg-type]
    assert book.find(8, DRAW) is None
