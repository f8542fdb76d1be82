"""JSON of unknown origin: strictly what the standard says, and the only error is one line."""

import json
from pathlib import Path
from typing import Any, NoReturn

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.limits import LARGEST_RECORD, read_plain


def read_json(path: Path, most: int = LARGEST_RECORD) -> Any:
    """The value in a JSON file; FileError if it is no plain file, too large, or not JSON."""
    try:
        return parse_json(read_plain(path, most))
    except ValueError as error:
        raise FileError(path, "must be a readable JSON file", error) from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    ValueError if it is not JSON, repeats a key, nests too deeply, holds NaN, Infinity, a number no
    float or 4300 digits can hold, or text that is no Unicode.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = _DECODER.decode(text)
        if "\\ud" in text.lower():  # a surrogate, perhaps without its other half
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"numbers must be finite, {name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        raise ValueError(f"numbers must be finite: {text[:20]}")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite)
