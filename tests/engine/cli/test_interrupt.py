"""Ctrl-C ends a command soon and in one line; the watch over it knows its own process only."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dualsmooth.engine.cli import interrupt

_CHILD = """
import os, signal, sys, time
from dualsmooth.engine.cli import interrupt
with interrupt.watch():
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    os.waitpid(child, 0)
    time.sleep(interrupt.GRACE + 0.5)
    print("alive", flush=True)
signal.signal(signal.SIGTERM, lambda *_: None)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(interrupt.GRACE + 0.5)
print("alive", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_only_a_signal_to_a_running_command_ends_its_process() -> None:
    command = [sys.executable, "-c", _CHILD]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "alive\nalive\n"), ended.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
@pytest.mark.parametrize(("name", "resumable"), [("certify", True), ("quantize", False)])
def test_a_command_that_python_cannot_interrupt_is_ended(name: str, resumable: bool) -> None:
    deaf = _CHILD.partition("with inter")[0] + (
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "with interrupt.watch():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
    )
    command = [sys.executable, "-c", deaf, name]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False)
    assert ended.returncode == 130
    assert ("go on with --resume" in ended.stderr) == resumable
    assert "dualsmooth: interrupted" in ended.stderr


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("certify", "; go on with --resume"),
        ("train", "; go on with --resume"),
        ("frontier", "; go on with the same command"),
        ("predict", ""),
    ],
)
def test_how_to_go_on_is_said_as_the_command_can(
    monkeypatch: pytest.MonkeyPatch, command: str, how: str
) -> None:
    monkeypatch.setattr("sys.argv", ["dualsmooth", command])
    assert interrupt.stopped("3 are on disk", reached="") == "3 are on disk" + how
    assert interrupt.stopped("full") == "full" + how.replace(
        "go", "what was reached is on disk, go"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX streams")
def test_closed_streams_are_no_files(tmp_path: Path) -> None:
    """As under cron: a file that got number 2 would hold what is said, its own lines beside it."""
    code = (
        "import sys\nfrom dualsmooth.engine import cli\n"
        "from dualsmooth.engine.cli import app\n"
        "app.main = lambda: (print('said'), print('warned', file=sys.stderr), look())\n"
        f"def look():\n    with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "        file.write(str(file.fileno() > 2))\n"
        "cli.main()\n"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert (tmp_path / "file").read_text() == "True"


def test_triton_has_nothing_to_say_at_the_end() -> None:
    """It listed objects that Python had been told not to look at: 26 lines below `doctor`."""
    pytest.importorskip("triton")
    code = (
        "from dualsmooth.engine import cli\nfrom dualsmooth.engine.cli import app\n"
        "app.main = lambda: __import__('triton')\ncli.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")


_COMMAND = """
import sys
from dualsmooth.engine import cli
guard = cli.end_at_once
cli.end_at_once = lambda: (guard(), print("begun", flush=True))
sys.argv = ["dualsmooth", *sys.argv[1:]]
{before}
cli.main()
"""
"""The command as it is started, but it says when its own code has begun to run."""


@contextmanager
def command(*arguments: object, before: str = "") -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND.format(before=before), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def delays(least: float, most: float, count: int) -> list[float]:
    """From one to the other, by equal factors."""
    return [round(least * (most / least) ** (i / (count - 1)), 3) for i in range(count)]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "seconds",
    [0.02, 0.3, *(pytest.param(s, marks=pytest.mark.slow) for s in delays(0.02, 2.0, 20))],
)
def test_ctrl_c_at_any_time_is_one_line(
    tiny_bundle: Path, tmp_path: Path, seconds: float, workers: int
) -> None:
    """In the imports, too; every process of the terminal gets the signal."""
    arguments = ("--data", "digits", "--n", 10**7, "--workers", workers, "--out", tmp_path / "run")
    with command("certify", tiny_bundle, *arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("dualsmooth: interrupted")
    assert errors.count("dualsmooth: interrupted") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_when_all_is_done_is_one_line() -> None:
    late = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)"
    with command("--version", before=late) as process:
        out, errors = process.communicate(timeout=30)
    assert out.splitlines()[1].startswith("dualsmooth ")
    assert (process.returncode, errors) == (130, "dualsmooth: interrupted\n")


def test_a_command_ends_without_taking_all_objects_down() -> None:
    """That takes .3 s in a process that imported PyTorch; what is to run at the end runs still."""
    left = (
        "import atexit, sys\nclass Left:\n    def __del__(self): print('taken down')\n"
        "kept = Left(); atexit.register(print, 'ended')\nsys.argv = ['dualsmooth', '--version']\n"
    )
    run = [sys.executable, "-c", f"{left}from dualsmooth.engine.cli import main; main()"]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines()[1:] == ["ended"]


def test_a_profile_of_a_command_is_told() -> None:
    run = [sys.executable, "-m", "cProfile", "-m", "dualsmooth", "--version"]
    told = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert "function calls" in told.stdout
