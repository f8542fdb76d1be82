"""The ahead-of-time gates: what passes, and that each kind of broken kernel is reported."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from dualsmooth.kernels.aot.__main__ import (
    CEILINGS,
    CUDA,
    NEAR_SPILL,
    SHARED_LIMIT,
    Built,
    chosen,
    findings,
    recorded,
    stage_builds,
)
from dualsmooth.kernels.aot.cases import all_cases
from dualsmooth.kernels.aot.sass import Machine
from dualsmooth.kernels.cuda.stages import PROGRAMS

CLEAN = Machine(64, 0, 8192, {"HMMA": 8, "LDG": 9, "FFMA": 100, "NOP": 5})
LIMITS = [64, 117, 8192]
BROKEN = Path(__file__).with_name("broken_kernels.py")


def test_a_clean_machine_has_no_findings() -> None:
    assert CLEAN.size == 117
    assert findings(Built("conv", 80, True, CLEAN), LIMITS) == []


@pytest.mark.parametrize(
    ("what", "machine", "limits"),
    [
        ("stack frame", Machine(64, 16, 8192, CLEAN.opcodes), LIMITS),
        ("local-memory", Machine(64, 0, 8192, {"HMMA": 8, "STL": 1, "LDL": 1}), LIMITS),
        ("no tensor-core", Machine(64, 0, 8192, {"FFMA": 100}), LIMITS),
        ("bypass L1", Machine(64, 0, 8192, {"HMMA": 8, "LDGSTS": 2}), LIMITS),
        ("shared memory", Machine(64, 0, SHARED_LIMIT[80] + 1, CLEAN.opcodes), [64, 117, 1 << 20]),
        ("registers", Machine(65, 0, 8192, CLEAN.opcodes), LIMITS),
        ("instructions", Machine(64, 0, 8192, CLEAN.opcodes | {"FFMA": 101}), LIMITS),
        ("shared bytes", Machine(64, 0, 8193, CLEAN.opcodes), LIMITS),
        ("no recorded limits", CLEAN, None),
    ],
)
def test_each_fault_is_reported(what: str, machine: Machine, limits: list[int] | None) -> None:
    (found,) = findings(Built("conv", 80, True, machine), limits)
    assert what in found


def test_limits_cover_every_case_of_every_recorded_release() -> None:
    wanted = {f"{c.name} sm_{sm}" for c in all_cases() for sm in (80, 90, 100)}
    assert len(wanted) == 3 * len(all_cases())
    every = json.loads(CEILINGS.read_text())
    cuda = every.pop(CUDA)
    assert set(cuda) == {f"{program.name(s)} sm_{sm}" for program, s, sm in stage_builds()}
    ninety = [(program, choice) for program, choice, sm in stage_builds() if sm == 90]
    assert ninety[: len(PROGRAMS)] == list(PROGRAMS)
    others = [program.kernel for program, _ in ninety[len(PROGRAMS) :]]
    assert others == ["tiled_stem"] * 6 + ["tiled_conv"] * 7
    assert len(cuda) == 105
    assert {"3.6", "3.9"} <= set(every)
    for limits in every.values():
        assert set(limits) == wanted
    unknown = recorded("99.0")
    name = next(iter(wanted))
    assert unknown[name] == [
        max(column) for column in zip(*(r[name] for r in every.values()), strict=True)
    ]


def test_the_quick_check_keeps_one_architecture_and_whatever_may_spill() -> None:
    quick = Namespace(only="", sm=[80, 90, 100], quick=True)
    limits = {"low sm_80": [NEAR_SPILL - 1, 1, 1], "high sm_80": [NEAR_SPILL, 1, 1]}
    limits["low sm_90"] = limits["low sm_80"]
    assert chosen("low", 90, quick, limits)
    assert not chosen("low", 80, quick, limits)
    assert chosen("high", 80, quick, limits)
    assert chosen("new", 80, quick, limits)  # never recorded: must be reported
    assert chosen("low", 80, Namespace(only="", sm=[80], quick=False), limits)
    assert not chosen("high", 80, Namespace(only="conv", sm=[80], quick=True), limits)
    assert not chosen("high", 80, Namespace(only="", sm=[90], quick=True), limits)


def compiled(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python outside the interpreter mode of these tests."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_broken_kernels_are_reported() -> None:
    """Compiled for real: one kernel spills, one has no tensor-core instruction."""
    done = compiled(str(BROKEN))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any("stack frame" in line for line in report["spills"])
    assert any("local-memory" in line for line in report["spills"])
    assert report["no matrix instruction"] == ["no tensor-core instruction"]


@pytest.mark.slow
def test_command_line_exit_code(tmp_path: Path) -> None:
    """Clean on a shipped kernel, 1 once a ceiling is lowered below it."""
    run = "import sys; from pathlib import Path; import dualsmooth.kernels.aot.__main__ as aot\n"
    check = "sys.exit(aot.main(['--check', '--only', 'noise gray', '--sm', '90', '--jobs', '1']))\n"
    lowered = tmp_path / "ceilings.json"
    every = json.loads(CEILINGS.read_text())
    kernel = "noise gray fp32 sm_90"
    compilers = [limits for limits in every.values() if kernel in limits]  # CUDA's has others
    assert compilers
    for limits in compilers:
        limits[kernel][0] = 8
    lowered.write_text(json.dumps(every))
    for name, change, code in (
        ("clean", "", 0),
        ("lowered", f"aot.CEILINGS = Path({str(lowered)!r})\n", 1),
    ):
        script = tmp_path / f"{name}.py"
        script.write_text(
            run + "if __name__ == '__main__':\n    " + change.strip() + "\n    " + check
        )
        done = compiled(str(script))
        assert done.returncode == code, done.stdout + done.stderr
        assert ("FINDING" in done.stdout) is bool(code)
