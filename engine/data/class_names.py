"""Names of a model's classes in order: from files of them, and compared with those of data."""

import csv
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualsmooth.engine.data.image_set import UNKNOWN_LABEL, ImageSet
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.json_file import parse_json
from dualsmooth.engine.limits import check_size

_LARGEST_LIST = 1 << 24


def numbered(lines: Sequence[str]) -> list[tuple[int, str]]:
    """(index, name) of each line: `INDEX NAME` if all lines are, each index once, else by line."""
    rows = [line.split(maxsplit=1) for line in lines]
    if all(len(row) == 2 and _is_index(row[0]) for row in rows if row):
        pairs = [(int(row[0]), row[1]) for row in rows if row]
        if pairs and len(dict(pairs)) == len(pairs) and max(pairs)[0] < 1 << 16:
            return pairs
    return list(enumerate(lines))


def read_classes(path: Path) -> tuple[str, ...]:
    """The lines of a list of classes; none may be empty.

    JSON and tables with commas become lines of `INDEX NAME`.
    """
    check_size(path, _LARGEST_LIST)
    try:
        text = path.read_text("utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, "must be a text of one class a line", error) from error
    try:
        lines = _of_json(text) if text.lstrip()[:1] in ("{", "[") else _of_table(text)
    except ValueError as error:
        rule = "must be JSON of a list of names, or of a map of numbers and names"
        raise FileError(path, rule, error, "or a text of one name a line") from error
    lines = lines or [line.strip() for line in text.splitlines()]
    if not all(lines) or not lines:
        received = f"line {1 + lines.index('')} empty" if lines else "an empty file"
        raise FileError(path, "must have a class on every line", received)
    return tuple(lines)


def check_classes(data: ImageSet, count: int, model: str, known: Sequence[str] = ()) -> None:
    """Refuse data whose labels cannot be, or can hardly be, those of a model's classes.

    ``known`` are the names of the model's classes, where it has some.
    """
    highest = int(data.labels.max(initial=UNKNOWN_LABEL))
    if highest >= count:
        rule = f"must have labels in 0 .. {count - 1}, the {count} classes of {model}"
        raise ArgumentError("data", rule, f"label {highest} in {data.name}")
    named = {UNKNOWN_LABEL, *(label for label, name in enumerate(data.classes) if name)}
    if data.classes_given and (nameless := {*data.labels.tolist()} - named):
        rule, received = f"must name every class of {data.name}", f"no name of {min(nameless)}"
        raise ArgumentError("classes", rule, received, "a line for each, or none of this option")
    check_order(data, known, model)
    if not data.name.startswith("folder:"):
        return
    names = data.classes
    shown = ", ".join(names[:12]) + (", .." if len(names) > 12 else "")
    if len(names) != count and not ("" in names and len(names) < count):
        rule = f"must have the {count} classes of {model}"
        received = f"{len(names)} in {data.name}: {shown}"
        raise ArgumentError("data", rule, received, "say which they are by --classes FILE")
    if not data.classes_given and all(name.isdecimal() for name in names):
        wrong = [f"{name} as class {i}" for i, name in enumerate(names) if int(name) != i]
        if wrong:
            rule = f"must have numeric names in the order of the {count} classes of {model}"
            received = f"{wrong[0]} in {data.name}: {shown}"
            raise ArgumentError("data", rule, received, "give their order by --classes FILE")


def check_order(data: ImageSet, known: Sequence[str], model: str) -> None:
    """Refuse data that give a class of the model's, known by its name, another number."""
    if data.classes_given:
        return
    theirs, ours = _by_name(known), _by_name(data.classes)
    numbers = all(re.fullmatch(r"n?\d+", name) for name in ours)  # ImageNet's are in this order
    others = [] if numbers else [name for name in ours if name not in theirs]
    if known and others and data.name.startswith("folder:"):
        found = f"{len(others)} of {len(ours)} is none of {model}'s, as {others[0]}"
        said = f"folders are numbered in the order of their names, and {found}"
        warnings.warn(f"{said}: --classes FILE says which is which", stacklevel=2)
    for name in ours.keys() & theirs.keys():
        here, there = ours[name], theirs[name]
        if here != there and name != str(here):
            rule = f"must have the classes in the order of {model}"
            received = f"{data.classes[here]} as class {here} in {data.name}, there {there}"
            hint = "in Python labels=NUMBERS; of a folder --classes FILE has their order"
            raise ArgumentError("data", rule, received, hint)


def _by_name(names: Sequence[str]) -> dict[str, int]:
    """Numbers of classes by letters and digits of their names, where those occur once."""
    plain = ["".join(filter(str.isalnum, name)).casefold() for name in names]
    times = Counter(plain)
    return {name: i for i, name in enumerate(plain) if name and times[name] == 1}


def _of_json(text: str) -> list[str]:
    """Lines of a list, of `{"0": name}` or `{name: 0}`, also as `id2label` of a configuration;
    `ValueError` for other JSON.
    """
    value = parse_json(text)
    value = value.get("id2label", value) if isinstance(value, dict) else dict(enumerate(value))
    pairs = [(str(key), _text(name)) for key, name in value.items()]
    return _lines(pairs) or _lines([(name, key) for key, name in pairs]) or _other(pairs)


def _of_table(text: str) -> list[str]:
    """Lines of a table of two columns, an index and a name either way, with or without a head;
    none if it is no such table.
    """
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    except csv.Error:  # a field without end
        return []
    if len(rows) < 2 or {*map(len, rows)} != {2}:
        return []
    tables = (rows, rows[1:], [row[::-1] for row in rows], [row[::-1] for row in rows[1:]])
    return next(filter(None, (_lines([(a, b) for a, b in table]) for table in tables)), [])


def _lines(pairs: list[tuple[str, str]]) -> list[str]:
    """`INDEX NAME` of every pair; none if one is no index and a name, or an index comes twice."""
    good = all(_is_index(index) and name for index, name in pairs)
    once = len({index.lstrip("0") for index, _ in pairs}) == len(pairs)
    return [f"{index} {' '.join(name.split())}" for index, name in pairs] if good and once else []


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _text(value: Any) -> str:
    """A name; of several, as beside a folder's name, all with spaces between."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return str(value) if isinstance(value, str) or type(value) is int else ""


def _other(pairs: list[tuple[str, str]]) -> list[str]:
    raise ValueError(f"{len(pairs)} entries, the first {pairs[:1]}"[:100])
