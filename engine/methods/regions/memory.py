"""Balls a stateful system has answered: consulted first, never in conflict with each other.

Stored balls (x_i, R_i, c_i) with different classes are disjoint. A query inside a ball gets that
ball's class, and the distance to its rim as radius. A new ball shrinks until it touches no ball of
another class. So inside every ball the system gives one answer (Alfarra et al., 2020): a statement
about this memory, its file, and the order of its queries.
"""

import base64
import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.images import Image
from dualsmooth.engine.json_file import parse_json
from dualsmooth.engine.limits import plain_descriptor, whole_lines
from dualsmooth.engine.records import checksum, typed_record

_EPSILON = float(np.finfo(np.float64).eps)


class Ball(NamedTuple):
    """An answer and the radius inside which it holds."""

    predicted: int
    radius: float
    sigma: float


class Memory:
    """Balls, in a file if one is given.

    Parameters
    ----------
    path : Path or None
        File to read and to append to, one line per ball, on disk before the ball is used. While it
        is open no other process can open it.

    Raises
    ------
    FileError
        If the file is damaged, cannot be written, or is held by another process.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._centers: list[NDArray[np.float64]] = []
        self._balls: list[Ball] = []
        self._busy = False
        self._file = None if path is None else self._open(Path(path))

    def __len__(self) -> int:
        return len(self._balls)

    @contextmanager
    def query(self, image: Image) -> Iterator["Query"]:
        """Ask about one image; the next query waits for the end of this one.

        Raises
        ------
        ArgumentError
            If another query is open: two answers at once could contradict each other.
        """
        if self._busy:
            raise ArgumentError("slots", "must be 1 with a memory", "images in parallel",
                                "an answer depends on all answers before it")  # fmt: skip
        self._busy = True
        try:
            yield Query(self, image)
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

    def add(self, image: Image, ball: Ball) -> None:
        """Store a ball that conflicts with none."""
        center = image.astype(np.float32)
        if self._file is not None:
            self._file.write(_line(center, ball))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._centers.append(center.astype(np.float64).ravel())
        self._balls.append(ball)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _open(self, path: Path) -> BinaryIO:
        try:
            file = open(path, "a+b", opener=plain_descriptor)
        except OSError as error:
            raise FileError(path, "memory must be a file that can be written", error) from error
        try:
            self._read(path, file)
        except BaseException:
            file.close()
            raise
        return file

    def _read(self, path: Path, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileError(path, "memory must not be held by another process") from error
        file.seek(whole := 0)
        for number, line in enumerate(whole_lines(path, file), 1):
            try:
                center, ball = _parse(line)
            except (ValueError, RecursionError) as error:
                raise FileError(f"{path}, line {number}", "must be a ball", error) from error
            self._centers.append(center)
            self._balls.append(ball)
            whole += len(line) + 1
        file.truncate(whole)  # a line cut off by a kill was never used


@dataclass(frozen=True)
class _Line:
    x: str
    predicted: int
    radius: float
    sigma: float
    checksum: str


class Query:
    """One image asked about, and what the memory knows of its surroundings."""

    def __init__(self, memory: Memory, image: Image) -> None:
        self._memory, self._image = memory, image
        distances, balls = memory.distances(image), memory.balls
        # A distance computed from d squares is right to d roundings.
        error = (image.size + 4) * _EPSILON
        self._far, self._near = distances * (1.0 + error), distances * (1.0 - error)
        self._radii = np.array([ball.radius for ball in balls])

    def find(self) -> Ball | None:
        """The answer of the ball that reaches furthest around the image; None outside all."""
        if not len(self._radii):
            return None
        rims = self._radii - self._far
        best = int(np.argmax(rims))
        if not rims[best] > 0.0:
            return None
        radius = math.nextafter(float(rims[best]) * (1.0 - _EPSILON), 0.0)
        return self._memory.balls[best]._replace(radius=radius)

    def room(self, predicted: int) -> float:
        """Radius a new ball of a class may have; infinite if there is no other class."""
        others = np.array([ball.predicted != predicted for ball in self._memory.balls], bool)
        if not others.any():
            return math.inf
        rims = (self._near - self._radii)[others]
        return max(0.0, math.nextafter(float(rims.min()) * (1.0 - _EPSILON), 0.0))

    def remember(self, predicted: int, radius: float, sigma: float) -> None:
        """Store the answer."""
        self._memory.add(self._image, Ball(predicted, radius, sigma))


def _line(center: Image, ball: Ball) -> bytes:
    record = {"x": base64.b64encode(center.tobytes()).decode(), **ball._asdict()}
    return json.dumps(record | {"checksum": checksum(record)}).encode() + b"\n"


def _parse(line: bytes) -> tuple[NDArray[np.float64], Ball]:
    stored = typed_record(_Line, parse_json(line))
    fields = asdict(stored)
    if fields.pop("checksum") != checksum(fields):
        raise ValueError("checksum does not match")
    center = np.frombuffer(base64.b64decode(stored.x, validate=True), np.float32)
    ball = Ball(stored.predicted, stored.radius, stored.sigma)
    if not (np.isfinite(center).all() and 0.0 < ball.radius < math.inf and ball.predicted >= 0):
        raise ValueError("must have a center, a radius > 0 and a class")
    return center.astype(np.float64), ball
