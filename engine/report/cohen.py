"""Tables in Cohen et al.'s format, as their code and projects grown from it write them.

Taken as they come: time in seconds or as ``h:mm:ss``, further columns, columns in another order or
case, labels written as ``3.0``, ``True`` for 1, a byte-order mark, empty lines, no last line break,
any radius where the class is abstain. A negative radius of a class counts as 0, a row that stands
twice counts once, and a last line that a kill may have cut short is left out, each with a warning.
Everything else is an error: two rows of one image that differ, and a ``correct`` that is not
whether ``label`` equals ``predict``.
"""

import re
from dataclasses import replace
from pathlib import Path

from dualsmooth.engine.certificate import ABSTAIN, MOST_RADIUS
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.limits import LARGEST_TABLE, read_plain
from dualsmooth.engine.printable import printable
from dualsmooth.engine.runs.summary import Row
from dualsmooth.engine.runs.table import COLUMNS

NEEDED = ("predict", "radius", "correct")
_READ = (*NEEDED, "idx", "label")
_TRUE, _FALSE = ("1", "1.0", "True", "true"), ("0", "0.0", "False", "false")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


def read_table(path: Path) -> tuple[list[Row], list[str]]:
    """Rows of a tab-separated table, and warnings about it; predict -1 is abstain."""
    text = _text(path)
    lines = text.splitlines() or [""]
    cut = 0 if text[-1:] in "\r\n" else len(lines)
    head, *body = [(n, line) for n, line in enumerate(lines, 1) if line.strip()] or [(1, "")]
    names = _columns(path, head[1])
    rows: dict[int, Row] = {}
    warnings, repeated = [], 0
    for number, line in body:
        fields = line.split("\t")
        if number == cut and (len(fields) < len(names) or names[-1] in _READ):
            warnings.append(f"{path}: line {number} is cut short and was left out")
            break
        try:
            row = _row(names, fields)
            key = -number if row.image_id is None else row.image_id
            repeated += key in rows
            if rows.setdefault(key, row) != row:
                raise ValueError(f"another row for idx {row.image_id} than before")
        except (KeyError, ValueError, OverflowError) as error:
            raise FileError(path, f"line {number} must be valid", error) from error
    if negative := sum(row.radius < 0.0 for row in rows.values()):
        warnings.append(f"{path}: {negative} certified rows have a negative radius, counted as 0")
    if repeated:
        warnings.append(f"{path}: {repeated} rows stand twice and count once")
    warnings = [printable(warning) for warning in warnings]
    return [replace(row, radius=max(0.0, row.radius)) for row in rows.values()], warnings


def _columns(path: Path, head: str) -> list[str]:
    names = [name.strip().lower() for name in head.split("\t")]
    for name in _READ:
        if names.count(name) > 1 or (name in NEEDED and name not in names):
            rule = f"must be a tab-separated table with columns {' '.join(COLUMNS)}"
            raise FileError(path, rule, f"{'two columns' if name in names else 'no column'} {name}")
    return names


def _text(path: Path) -> str:
    try:
        return read_plain(path, LARGEST_TABLE, links=True).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(path, "must be UTF-8 text", error.reason) from error


def _row(names: list[str], fields: list[str]) -> Row:
    """A row of the table; its radius may be negative."""
    if any(fields[len(names) :]):
        raise ValueError(f"{len(fields)} fields under {len(names)} columns")
    record = dict(zip(names, fields, strict=False))
    predicted, stated = _index("predict", record["predict"]), _truth(record["correct"])
    label = _index("label", record["label"]) if record.get("label") else None
    abstained = predicted == ABSTAIN
    if label is not None and stated != (label == predicted) and (stated or not abstained):
        what = f"correct {record['correct']} beside label {label} and predict {predicted}"
        raise ValueError(what)
    return Row(
        radius=_radius(record["radius"], abstained),
        correct=stated and not abstained,
        abstained=abstained,
        image_id=_index("idx", record["idx"], 0) if record.get("idx") else None,
        label=label,
        predicted=None if abstained else predicted,
    )


def _radius(text: str, abstained: bool) -> float:
    if abstained and _NO_NUMBER.fullmatch(text):
        return 0.0
    radius = _number("radius", text)
    if not (abstained or radius < MOST_RADIUS):
        raise ValueError(f"radius {text}")
    return 0.0 if abstained else radius


def _number(name: str, text: str) -> float:
    """A plain decimal number: `float` alone would take ``1_0.5`` and digits of other scripts."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} {text!r}")
    return float(text)


def _index(name: str, text: str, least: int = -1) -> int:
    value = _number(name, text)
    if not least <= value < 1 << 32 or value != int(value):
        raise ValueError(f"{name} {text}")
    return int(value)


def _truth(text: str) -> bool:
    if text not in _TRUE + _FALSE:
        raise ValueError(f"correct {text!r}")
    return text in _TRUE
