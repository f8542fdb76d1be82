"""Tables in Cohen et al.'s format, as their code and projects grown from it write them.

Taken as they come: time in seconds or as ``h:mm:ss``, further columns, columns in another order,
labels written as ``3.0``, ``True`` for 1, a byte-order mark, empty lines, no last line break.
A last line that a kill cut short is left out with a warning. Everything else is an error.
"""

from pathlib import Path

from dualsmooth.engine.certificate import ABSTAIN, MOST_RADIUS
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.limits import LARGEST_TABLE, read_plain
from dualsmooth.engine.printable import printable
from dualsmooth.engine.runs.log import COLUMNS
from dualsmooth.engine.runs.summary import Row

NEEDED = ("predict", "radius", "correct")
_TRUE, _FALSE = ("1", "1.0", "True", "true"), ("0", "0.0", "False", "false")


def read_table(path: Path) -> tuple[list[Row], list[str]]:
    """Rows of a table, and warnings about it.

    Parameters
    ----------
    path : Path
        Tab-separated, with the columns ``predict``, ``radius`` and ``correct`` at least;
        predict -1 is abstain.

    Raises
    ------
    FileError
        If the file is unreadable, lacks a column, or a line other than a torn last one is bad.
    """
    try:
        text = read_plain(path, LARGEST_TABLE, links=True).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(path, "must be UTF-8 text", error.reason) from error
    head, *lines = [(number, line) for number, line in enumerate(text.splitlines(), 1)
                    if line.strip()] or [(1, "")]  # fmt: skip
    names = [name.strip() for name in head[1].split("\t")]
    if missing := [name for name in NEEDED if name not in names]:
        rule = f"must be a tab-separated table with columns {' '.join(COLUMNS)}"
        raise FileError(path, rule, f"no column {missing[0]}")
    rows, warnings = [], []
    for number, line in lines:
        fields = line.split("\t")
        torn = len(fields) < len(names) and (number, line) == lines[-1]
        if torn and not text.endswith("\n"):
            warnings.append(printable(f"{path}: line {number} is cut short and was left out"))
            break
        try:
            rows.append(_row(dict(zip(names, fields, strict=False))))
        except (KeyError, ValueError, OverflowError) as error:
            raise FileError(path, f"line {number} must be valid", error) from error
    return rows, warnings


def _row(record: dict[str, str]) -> Row:
    radius, predicted = float(record["radius"]), _index(record["predict"])
    if not 0.0 <= radius < MOST_RADIUS:
        raise ValueError(f"radius {record['radius']}")
    abstained = predicted == ABSTAIN
    label = record.get("label", "").strip()
    return Row(
        radius=0.0 if abstained else radius,
        correct=_truth(record["correct"].strip()) and not abstained,
        abstained=abstained,
        image_id=_index(record["idx"]) if record.get("idx", "").strip() else None,
        label=_index(label) if label else None,
        predicted=None if abstained else predicted,
    )


def _index(text: str) -> int:
    value = float(text)
    if value != int(value) or not abs(value) < 1 << 32:
        raise ValueError(f"{text} is no index")
    return int(value)


def _truth(text: str) -> bool:
    if text not in _TRUE + _FALSE:
        raise ValueError(f"correct {text!r}")
    return text in _TRUE
