"""Cores and memory of this machine: what the engine takes of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dualsmooth.engine import machine

CODE = """
import ctypes, sys
from dualsmooth.engine.machine import keep_freed_memory
if sys.argv[1] == "tuned" and not keep_freed_memory():
    print(-1); raise SystemExit
fields = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in fields]
libc = ctypes.CDLL("libc.so.6")
mallinfo2, libc.malloc.restype = libc.mallinfo2, ctypes.c_void_p
mallinfo2.restype = Info
before = mallinfo2().hblks
kept = [libc.malloc(ctypes.c_size_t(4 << 20)) for _ in range(8)]
print(mallinfo2().hblks - before)
"""


def mapped_blocks(mode: str) -> int:
    run = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True)
    if "mallinfo2" in run.stderr or "libc.so.6" in run.stderr:
        pytest.skip("the C library is not a recent glibc")
    return int(run.stdout)


def test_large_buffers_come_from_the_heap_that_keeps_freed_memory() -> None:
    """glibc maps 4 MiB blocks one by one, and unmaps them at free, unless it is told not to."""
    tuned = mapped_blocks("tuned")
    if tuned < 0:
        pytest.skip("the C library is not glibc")
    assert (mapped_blocks("plain"), tuned) == (8, 0)


TASK = {"SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "12"}
BATCH = {"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "12"}
FIRST, SECOND = "9:memory:/job\n3:cpu,cpuacct:/job/step\n0::/\n", "0::/job/step\n"


@pytest.mark.parametrize(
    ("groups", "files", "slurm", "cores"),
    [
        ("", {}, {}, 16),
        (SECOND, {"job/step/cpu.max": "max 100000", "cpu.max": "max 100000"}, {}, 16),
        (SECOND, {"job/step/cpu.max": "max 100000", "job/cpu.max": "350000 100000"}, {}, 4),
        (SECOND, {"cpu.max": "50000 100000"}, {}, 1),  # as a container sees its own
        (FIRST, {"cpu/job/step/cpu.cfs_quota_us": "-1"}, {}, 16),
        (FIRST, {"cpu/job/cpu.cfs_quota_us": "200000"}, {}, 2),
        (FIRST, {"memory/job/cpu.cfs_quota_us": "200000"}, {}, 16),
        ("", {}, TASK, 3),
        ("", {}, BATCH, 12),
        ("", {}, {"SLURM_CPUS_ON_NODE": "64"}, 16),
        ("", {}, {"SLURM_CPUS_ON_NODE": "all"}, 16),
        ("", {}, {"SLURM_CPUS_ON_NODE": "0"}, 1),
    ],
)
def test_cores_are_those_that_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    groups: str, files: dict[str, str], slurm: dict[str, str], cores: int,
) -> None:  # fmt: skip
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.with_name("cpu.cfs_period_us").write_text("100000\n")
    for name in TASK:
        monkeypatch.delenv(name, raising=False)
    for name, text in slurm.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(machine, "PROCESS_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert machine.available_cores() == cores
