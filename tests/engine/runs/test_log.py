import dataclasses
import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualsmooth.engine.certificate import Certificate, Claim, Stamp
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.runs.log import RunLog, radius_text, read_log, table

STAMP = Stamp(
    method="fixed(0.25)", seed=0, attempt=0, bundle="", precision="", device="", sampler="",
    batch_size=0,
)  # fmt: skip
CLAIM = Claim.of(3, 0.123456789, 0.25, AlphaLedger("single", 1e-3, {"classifier": 1e-3}))
CERTIFICATE = Certificate.of(CLAIM, STAMP, 0, 3, (), 0.0)


def numbered(image_id: int) -> Certificate:
    return dataclasses.replace(CERTIFICATE, image_id=image_id)


@given(st.floats(0, 1e6))
def test_printed_radii_never_exceed_the_certified_ones(radius: float) -> None:
    assert 0 <= Decimal(radius) - Decimal(radius_text(radius)) < Decimal("1e-6")


def test_rounding_to_nearest_would_round_up() -> None:
    assert radius_text(0.1234567) == "0.123456"
    assert f"{0.1234567:.6f}" == "0.123457"


def test_table_has_cohens_columns() -> None:
    abstained = dataclasses.replace(
        CERTIFICATE, predicted=None, radius=0.0, abstained_at="classifier", image_id=1, seconds=2.5
    )
    assert table([CERTIFICATE, abstained]).splitlines() == [
        "idx\tlabel\tpredict\tradius\tcorrect\ttime",
        "0\t3\t3\t0.123456\t1\t0.000000",
        "1\t3\t-1\t0.000000\t0\t2.500000",
    ]


def test_a_certificate_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", {"seed": 0})
    for image_id in (5, 2, 9):
        log.append(numbered(image_id))
        assert read_log(tmp_path / "run")[-1] == numbered(image_id)
    log.finish({"images": 3})
    assert [c.image_id for c in read_log(tmp_path / "run")] == [2, 5, 9]
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    log = RunLog(tmp_path, {})
    log.append(numbered(0))
    log.append(numbered(1))
    log.close()
    path = tmp_path / "certificates.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = RunLog(tmp_path, {}, resume=True)
    assert sorted(resumed.done) == [0]
    resumed.append(numbered(1))
    resumed.finish({})
    assert [c.image_id for c in read_log(tmp_path)] == [0, 1]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    log = RunLog(tmp_path, {})
    for image_id in range(3):
        log.append(numbered(image_id))
    log.close()
    path = tmp_path / "certificates.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("0.123456789", "0.923456789")
    path.write_text("".join(lines))
    with pytest.raises(FileError, match="line 2 must be a valid certificate"):
        RunLog(tmp_path, {}, resume=True)


def test_resume_compares_the_configuration(tmp_path: Path) -> None:
    RunLog(tmp_path, {"n": 100, "alpha": 0.001}).close()
    RunLog(tmp_path, {"n": 100, "alpha": 0.001}, resume=True).close()
    with pytest.raises(FileError, match="n 100 -> 200"):
        RunLog(tmp_path, {"n": 200, "alpha": 0.001}, resume=True)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(FileError, match=r"run.json: must be the JSON record of a run"):
        RunLog(tmp_path, {}, resume=True)


def test_fresh_deletes_the_files_of_a_run_and_nothing_else(tmp_path: Path) -> None:
    log = RunLog(tmp_path, {})
    log.append(numbered(0))
    log.finish({})
    (tmp_path / "notes.txt").write_text("mine")
    RunLog(tmp_path, {}, fresh=True).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "certificates.jsonl", "notes.txt", "run.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "run.json").read_text())["configuration"] == {}
