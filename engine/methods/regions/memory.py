"""Balls a stateful system has answered: consulted first, never in conflict with each other.

Stored balls (x_i, R_i, c_i) with different classes are disjoint. A query inside a ball gets that
ball's class, and the distance to its rim as radius. A new ball shrinks until it touches no ball of
another class. So inside every ball the system gives one answer (Alfarra et al., 2020): a statement
about this memory, its file, and the order of its queries. A ball holds at the alpha it was made at
and answers no query that asks for a smaller one; a memory belongs to one method, one bundle and one
arithmetic.

A run writes a ball after the certificate that shows it (`settle`), so the file never knows more
than the log, and a run that is resumed fills it up from there.
"""

import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError, FileError, StoppedError
from dualsmooth.engine.files import at_home, lock
from dualsmooth.engine.images import Image
from dualsmooth.engine.limits import LARGEST_DATA, plain_descriptor, read_plain
from dualsmooth.engine.methods.regions.balls import (
    Ball,
    Query,
    ball_line,
    check_header,
    digest_of_lines,
    parse_ball,
)
from dualsmooth.engine.records import unlike


class Memory:
    """Balls, in a file if one is given: read first and appended to, one line per ball.

    While the file is open no other process can open it. The first query makes a new one, so that
    nothing is left of what was refused before.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._centers: list[NDArray[np.float64]] = []
        self._balls: list[Ball] = []
        self._busy, self._logged = False, False
        self._about: bytes | None = None
        self._headed = False
        self._lines: list[bytes] = []
        self._kept: list[bytes] = []
        self._unsettled: deque[tuple[NDArray[np.float32], Ball]] = deque()
        self._path = None if path is None else at_home(path, "memory")
        self._file: BinaryIO | None = None
        if self._path is not None and os.path.lexists(self._path):
            self._file = self._open(self._path, "a+b")
        elif self._path is not None and not os.access(self._path.parent, os.W_OK):
            rule = "memory must be in a folder that can be written to"
            raise FileError(self._path, rule, self._path.parent)

    def __len__(self) -> int:
        return len(self._balls)

    @contextmanager
    def query(self, image: Image) -> Iterator["Query"]:
        """Ask about one image; the next query waits for the end of this one."""
        if self._busy:
            rule, hint = "must be 1 with a memory", "an answer depends on all answers before it"
            raise ArgumentError("slots", rule, "images in parallel", hint)
        if self._path is not None and self._file is None:
            self._file = self._open(self._path, "x+b")
        self._busy = True
        try:
            yield Query(image, self.distances(image), self.balls, self.add)
        finally:
            self._busy = False

    def distances(self, image: Image) -> NDArray[np.float64]:
        """L2 distances to all centers."""
        x = image.astype(np.float64).ravel()
        if any(center.size != x.size for center in self._centers):
            raise ArgumentError("memory", f"must hold images of {x.size} pixels", "another size")
        return np.array([math.sqrt(float(np.square(c - x).sum())) for c in self._centers])

    @property
    def balls(self) -> tuple[Ball, ...]:
        """All balls, oldest first."""
        return tuple(self._balls)

    @property
    def state(self) -> dict[str, Any]:
        """Number and digest of the balls, for the record of a run that begins with them."""
        return {"balls": len(self._lines), "sha256": digest_of_lines(self._lines)}

    def bind(self, about: Mapping[str, Any]) -> None:
        """Say what the balls are about: a file keeps it as its first line, and no other balls."""
        line = json.dumps({"about": dict(about)}, sort_keys=True).encode() + b"\n"
        if self._about != line and (self._lines or self._headed):
            theirs = {} if self._about is None else json.loads(self._about)["about"]
            rule = f"must hold balls of the same {', '.join(unlike(theirs, about))}"
            raise ArgumentError("memory", rule, str(self._path), "start another file")
        self._about = line

    def follow_log(self, begun: Mapping[str, Any] | None) -> None:
        """Write balls only as `settle` is called, starting as a run began or from here."""
        self._logged = True
        if begun is None:
            return
        count = begun.get("balls")
        there = type(count) is int and 0 <= count <= len(self._lines)
        if not there or digest_of_lines(self._lines[:count]) != begun.get("sha256"):
            rule = "must begin with the balls that the run began with"
            raise ArgumentError("memory", rule, str(self._path), "give the file of that run")
        self._kept = self._lines[count:]
        del self._centers[count:], self._balls[count:], self._lines[count:]

    def check_settled(self) -> None:
        """Refuse balls in the file that no certificate of the resumed run shows."""
        if self._kept:
            rule = "must not have grown since the run stopped"
            received = f"{self._path} with {len(self._kept)} balls more"
            raise ArgumentError("memory", rule, received, "use --fresh")

    def settle(self, image_id: int) -> None:
        """Write the oldest ball that is not written yet, or find it: its certificate is logged."""
        center, ball = self._unsettled.popleft()
        line = ball_line(center, ball, image_id)
        if not self._kept:
            self._write(line)
        elif self._kept[0] != line:
            self.check_settled()
        else:
            del self._kept[0]
        self._lines.append(line)

    def add(self, image: Image, ball: Ball) -> None:
        """Store a ball that conflicts with none."""
        center = image.astype(np.float32)
        if self._logged:
            self._unsettled.append((center, ball))
        else:
            line = ball_line(center, ball, None)
            self._write(line)
            self._lines.append(line)
        self._centers.append(center.astype(np.float64).ravel())
        self._balls.append(ball)

    def _write(self, line: bytes) -> None:
        if self._file is None:
            return
        header = self._about if self._about is not None and not self._headed else b""
        try:
            self._file.write(header + line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            why = error.strerror or error
            raise StoppedError(f"{self._path}: cannot be written ({why})") from error
        self._headed = True

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    @classmethod
    def as_begun(cls, path: Path | None, begun: Mapping[str, Any]) -> "Memory":
        """What a recorded run began with; the file is read and left alone."""
        memory = cls()
        if path is not None:
            memory._take(path, read_plain(path, LARGEST_DATA, links=True))
        memory.follow_log(begun)
        memory._kept.clear()
        return memory

    def _open(self, path: Path, mode: Literal["a+b", "x+b"]) -> BinaryIO:
        try:
            file = open(path, mode, opener=plain_descriptor)
        except OSError as error:
            raise FileError(path, "memory must be a file that can be written", error) from error
        try:
            self._read(path, file)
        except BaseException:
            file.close()
            raise
        return file

    def _read(self, path: Path, file: BinaryIO) -> None:
        if not lock(file, path):
            raise FileError(path, "memory must not be held by another process")
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        self._take(path, content[:whole])
        file.truncate(whole)  # a line cut off by a kill was never used

    def _take(self, path: Path, content: bytes) -> None:
        lines = content.splitlines(keepends=True)
        if lines and lines[0].startswith(b'{"about":'):
            check_header(path, lines[0])
            self._about, self._headed = lines[0], True
        for number, line in enumerate(lines[self._headed :], 1 + self._headed):
            try:
                center, ball = parse_ball(line)
            except ValueError as error:
                raise FileError(f"{path}, line {number}", "must be a ball", error) from error
            self._centers.append(center)
            self._balls.append(ball)
            self._lines.append(line)
