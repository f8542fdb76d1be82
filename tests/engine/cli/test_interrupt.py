"""The watch over Ctrl-C ends with its command, and knows its own process only."""

import os
import subprocess
import sys

import pytest

_CHILD = """
import os, signal, sys, time
from dualsmooth.engine.cli import app
with app._end_soon_if_interrupted():
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    os.waitpid(child, 0)
    time.sleep(app.GRACE + 0.5)
    print("alive", flush=True)
signal.signal(signal.SIGTERM, lambda *_: None)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(app.GRACE + 0.5)
print("alive", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_only_a_signal_to_a_running_command_ends_its_process() -> None:
    command = [sys.executable, "-c", _CHILD]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "alive\nalive\n"), ended.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_a_command_that_python_cannot_interrupt_is_ended() -> None:
    deaf = _CHILD.partition("with app")[0] + (
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "with app._end_soon_if_interrupted():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
    )
    command = [sys.executable, "-c", deaf]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False)
    assert ended.returncode == 130
    assert "go on with --resume" in ended.stderr
