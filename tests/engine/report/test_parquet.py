"""Runs as Parquet files."""

import dataclasses
import sys
from pathlib import Path

import pytest

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.report.parquet import write_parquet
from dualsmooth.engine.runs.log import RunLog
from tests.engine.conftest import CERTIFICATE

FIRST = dataclasses.replace(CERTIFICATE, seed=2**64 - 1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    log = RunLog(tmp_path / "run", {})
    log.append(dataclasses.replace(FIRST, image_id=7))
    log.append(dataclasses.replace(FIRST, image_id=2, predicted=None, radius=0.0, label=None))
    log.close()
    return tmp_path / "run"


def test_columns_are_those_of_the_certificates(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    assert write_parquet(run, tmp_path / "run.parquet") == 2
    rows = parquet.read_table(tmp_path / "run.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [2, 7]
    assert [row["predicted"] for row in rows] == [None, 3]
    assert rows[1]["radius"] == 0.123456789
    assert rows[1]["seed"] == 2**64 - 1
    assert Certificate.from_json(rows[1]["certificate"]).image_id == 7
    with pytest.raises(FileError, match=r"run\.parquet: must not exist yet"):
        write_parquet(run, tmp_path / "run.parquet")
    with pytest.raises(FileError, match="must be readable"):
        write_parquet(tmp_path, tmp_path / "other.parquet")


def test_without_pyarrow_the_extra_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArgumentError, match=r"pip install 'pyarrow>="):
        write_parquet(run, tmp_path / "run.parquet")
    assert not (tmp_path / "run.parquet").exists()
