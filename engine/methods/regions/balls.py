"""Balls that a memory holds, as lines of its file, and what they say about one image."""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.checks import error_level
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.images import Image
from dualsmooth.engine.json_file import parse_json
from dualsmooth.engine.records import checksum, typed_record

_EPSILON = float(np.finfo(np.float64).eps)


class Ball(NamedTuple):
    """An answer and the radius inside which it holds."""

    predicted: int
    radius: float
    sigma: float
    alpha: float


class Query:
    """One image asked about, and what the memory knows of its surroundings."""

    def __init__(
        self,
        image: Image,
        distances: NDArray[np.float64],
        balls: Sequence[Ball],
        add: Callable[[Image, Ball], None],
    ) -> None:
        self._image, self._balls, self._add = image, balls, add
        # A distance computed from d squares is right to d roundings.
        error = (image.size + 4) * _EPSILON
        self._far, self._near = distances * (1.0 + error), distances * (1.0 - error)
        self._radii = np.array([ball.radius for ball in balls])

    def find(self, alpha: float) -> Ball | None:
        """The answer of the ball that reaches furthest around the image; None outside all.

        Balls that were made at a larger alpha do not answer.
        """
        if not len(self._radii):
            return None
        fits = np.array([ball.alpha <= alpha for ball in self._balls], bool)
        rims = np.where(fits, self._radii - self._far, -math.inf)
        best = int(np.argmax(rims))
        if not rims[best] > 0.0:
            return None
        radius = math.nextafter(float(rims[best]) * (1.0 - _EPSILON), 0.0)
        return self._balls[best]._replace(radius=radius)

    def room(self, predicted: int) -> float:
        """Radius a new ball of a class may have; infinite if there is no other class."""
        others = np.array([ball.predicted != predicted for ball in self._balls], bool)
        if not others.any():
            return math.inf
        rims = (self._near - self._radii)[others]
        return max(0.0, math.nextafter(float(rims.min()) * (1.0 - _EPSILON), 0.0))

    def remember(self, predicted: int, radius: float, sigma: float, alpha: float) -> None:
        """Store the answer."""
        self._add(self._image, Ball(predicted, radius, sigma, alpha))


@dataclass(frozen=True)
class _Header:
    about: dict[str, Any]


@dataclass(frozen=True)
class _Line:
    x: str
    predicted: int
    radius: float
    sigma: float
    alpha: float
    image_id: int | None
    checksum: str


def digest_of_lines(lines: list[bytes]) -> str:
    """SHA-256 of lines in order."""
    return hashlib.sha256(b"".join(lines)).hexdigest()


def check_header(path: Path, line: bytes) -> None:
    """Refuse a first line that does not say what the balls are about."""
    try:
        typed_record(_Header, parse_json(line))
    except ValueError as error:
        raise FileError(f"{path}, line 1", "must say what the balls are about", error) from error


def ball_line(center: Image, ball: Ball, image_id: int | None) -> bytes:
    """A ball as its file has it; the image id is that of the certificate that shows it."""
    x = base64.b64encode(center.tobytes()).decode()
    record = {"x": x, **ball._asdict(), "image_id": image_id}
    return json.dumps(record | {"checksum": checksum(record)}).encode() + b"\n"


def parse_ball(line: bytes) -> tuple[NDArray[np.float64], Ball]:
    """Center and ball of a line; raises `ValueError` if it is none."""
    stored = typed_record(_Line, parse_json(line))
    fields = asdict(stored)
    if fields.pop("checksum") != checksum(fields):
        raise ValueError("checksum does not match")
    center = np.frombuffer(base64.b64decode(stored.x, validate=True), np.float32)
    ball = Ball(stored.predicted, stored.radius, stored.sigma, error_level("alpha", stored.alpha))
    if not (np.isfinite(center).all() and 0.0 < ball.radius < math.inf and ball.predicted >= 0):
        raise ValueError("must have a center, a radius > 0 and a class")
    return center.astype(np.float64), ball
