import dataclasses
import json
import shutil
from contextlib import suppress
from decimal import Decimal
from functools import partialmethod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import FileError, StoppedError
from dualsmooth.engine.machine import machine
from dualsmooth.engine.runs.log import RunLog, read_log
from dualsmooth.engine.runs.table import radius_text, table
from tests.engine.conftest import CERTIFICATE


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


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    log = RunLog(tmp_path, {})
    for image_id in range(3):
        log.append(numbered(image_id))
    log.close()
    path = tmp_path / "certificates.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("0.123456789", "0.923456789")
    path.write_text("".join(lines))
    with pytest.raises(FileError, match="line 2 must be a certificate"):
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


@pytest.mark.parametrize("name", ["run.json", "summary.json", "certificates.jsonl"])
@pytest.mark.parametrize("text", ["{}", "[]", '{"configuration": {}}', "not json", "[" * 99999])
def test_fresh_leaves_the_files_of_other_tools_alone(tmp_path: Path, name: str, text: str) -> None:
    for other in ("run.json", name):
        (tmp_path / other).write_text(text)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(FileError, match="must be the record of a run"):
        RunLog(tmp_path, {}, fresh=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    (tmp_path / "run.json").unlink()
    if name != "run.json":
        with pytest.raises(FileError, match="other files in it"):
            RunLog(tmp_path, {}, fresh=True)


def test_killed_at_any_removal_beside_a_report_some_option_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    for survive in range(6):
        folder = tmp_path / str(survive)
        log = RunLog(folder, {})
        log.append(numbered(0))
        log.finish({})
        for name in ("summary.md", "report.html", "curves.png"):
            (folder / name).write_text("report")
        left = survive

        def maybe(path: Path, *arguments: object, call: object = None, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return call(path, *arguments, **options)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            for name in ("unlink", "replace"):
                patch.setattr(Path, name, partialmethod(maybe, call=getattr(Path, name)))
            patch.setattr("fcntl.flock", lambda *_: None)
            with suppress(Killed):
                RunLog(folder, {}, fresh=True).close()
        monkeypatch.setattr("fcntl.flock", lambda *_: None)
        RunLog(folder, {}, fresh=True).close()
        assert (folder / "summary.md").read_text() == "report"
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "summary.md").write_text("report")
    with pytest.raises(FileError, match="other files in it"):
        RunLog(lost, {})
    RunLog(lost, {}, fresh=True).close()


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another"},
        {"instructions": "0 ONEDNN_MAX_CPU_ISA=SSE41"},
        {"versions": machine()["versions"] | {"torch": "0.1"}},
        {"versions": machine()["versions"] | {"scipy": "0.1"}},
        {"versions": machine()["versions"] | {"dualsmooth": "0"}},
        {"versions": machine()["versions"] | {"timm": "0.1"}},
        {"versions": machine()["versions"] | {"transformers": "0.1"}},
    ],
    ids=str,
)
def test_resume_compares_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    members = {"members": [{"architecture": "hf", "kwargs": {}}]}
    networks = {"selector": ["timm", {}, ""], "classifier": ["soft_voting", members, ""]}
    run = {"device": "cpu", "bundle_manifest": {"networks": networks}}
    RunLog(tmp_path, run).close()
    here = machine()
    monkeypatch.setattr("dualsmooth.engine.runs.record.machine", lambda: here | change)
    with pytest.raises(FileError, match=r"must have the same arithmetic to resume.*--fresh"):
        RunLog(tmp_path, run, resume=True)
    others = {"cores": 99, "versions": here["versions"] | {"onnxruntime": "0.1"}}  # none of .onnx
    monkeypatch.setattr("dualsmooth.engine.runs.record.machine", lambda: here | others)
    RunLog(tmp_path, run, resume=True).close()


@pytest.mark.parametrize("switch", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"])
def test_switches_of_instructions_are_part_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    RunLog(tmp_path, {}).close()
    monkeypatch.setenv(switch, "avx2")
    with pytest.raises(FileError, match=f"instructions .*{switch}=avx2"):
        RunLog(tmp_path, {}, resume=True)


def test_a_deleted_log_is_told(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", {})
    log.append(numbered(0))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(StoppedError, match="0 certificates are on disk, because the log was"):
        log.finish({})
    log.close()
