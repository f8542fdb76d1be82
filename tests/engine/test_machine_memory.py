import subprocess
import sys

import pytest

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
