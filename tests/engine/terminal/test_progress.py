"""Progress where nobody watches a bar move."""

import io
import re
import runpy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dualsmooth.engine.terminal import progress
from dualsmooth.engine.terminal.progress import progress_bar, shown, step
from tests.conftest import Command


class Pipe(io.StringIO):
    def isatty(self) -> bool:
        return False


def until(pipe: Pipe, pattern: str) -> None:
    end = time.monotonic() + 10
    while not re.search(pattern, pipe.getvalue()):
        assert time.monotonic() < end, pipe.getvalue()
        time.sleep(0.01)


def test_a_pipe_gets_whole_lines_even_while_nothing_is_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = Pipe()
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr(progress, "PERIOD", 0.02)
    bar = progress_bar(total=4, initial=1, desc="fixed(0.25)", unit="img")
    until(pipe, r"1/4 img .*\n.*1/4 img .*\n")
    bar.set_postfix_str("100 votes/s", refresh=False)
    bar.update(2)
    until(pipe, r"fixed\(0.25\): 3/4 img \[\d+:\d+<[^\r\n]*, 100 votes/s\]\n")
    bar.close()
    said = pipe.getvalue()
    time.sleep(0.1)
    assert pipe.getvalue() == said
    assert "\r" not in said


def test_an_iterable_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe()
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr(progress, "PERIOD", 0.02)
    for _ in progress_bar(iterable=range(2), total=2, desc="search", unit="image"):
        time.sleep(0.1)
    assert "search: 1/2 image" in pipe.getvalue()


def test_nothing_is_said_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe()
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr(progress, "PERIOD", 0.01)
    bar = progress_bar(show=False, total=4)
    time.sleep(0.05)
    bar.close()
    assert pipe.getvalue() == ""


def test_the_first_line_comes_after_half_a_minute() -> None:
    assert progress.PERIOD == 30.0


class Terminal(Pipe):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "asked", "delay", "term", "told"),
    [(Terminal, True, 0.0, "xterm", "proving .."), (Terminal, True, 60.0, "xterm", ""),
     (Pipe, True, 0.0, "xterm", ""), (Terminal, False, 0.0, "xterm", ""),
     (Terminal, True, 0.0, "dumb", "")],
    ids=["long", "short", "no terminal", "not asked", "nothing is erased there"],
)  # fmt: skip
def test_a_step_that_takes_long_is_told_and_goes(
    monkeypatch: pytest.MonkeyPatch,
    stream: type[Pipe],
    asked: bool,
    delay: float,
    term: str,
    told: str,
) -> None:
    pipe = stream()
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr(progress, "DELAY", delay)
    with shown(asked), step("proving"):
        if told:
            until(pipe, "proving")
        assert pipe.getvalue() == told
    assert pipe.getvalue() == told + "\r\x1b[K" * bool(told)


@pytest.mark.parametrize(
    ("module", "words"),
    [("engine.samplers.choose", []), ("engine.cli.train", ["train", "nothing", "--out", "t"]),
     ("engine.cli.quantize", ["quantize", "nothing", "--out", "q"])],
)  # fmt: skip
def test_the_import_of_pytorch_is_a_step(
    monkeypatch: pytest.MonkeyPatch, command: Command, module: str, words: list[str]
) -> None:
    told: list[str] = []

    @contextmanager
    def telling(what: str) -> Iterator[None]:
        told.append(what)
        yield

    if words:
        monkeypatch.setattr(f"dualsmooth.{module}.step", telling)
        assert command(*words)[0] == 2
    else:
        monkeypatch.setattr(progress, "step", telling)
        runpy.run_module(f"dualsmooth.{module}")
    assert told[0] == "loading PyTorch"
