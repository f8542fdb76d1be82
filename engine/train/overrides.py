"""Fields of a recipe changed by text: `selecting.epochs=5`, `experts.0.pull=5`."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.records import typed_record

Recipe = TypeVar("Recipe")


def with_overrides(recipe: Recipe, options: Sequence[str]) -> Recipe:
    """A copy of a recipe with fields changed, one after the other.

    An option is ``path=value``: the path is field names and positions with dots between them, the
    value JSON (text may stand without quotes) of the kind that is there; lists become tuples. An
    object makes a part that is not there, ``sizes={"widths": [64, 128], "hidden": 128}``, a list of
    objects parts of the kind that are there: ``experts=[{"sigma": 0.5}, {"sigma": 1.0}]``.
    """
    for option in options:
        path, equals, text = option.partition("=")
        if not equals:
            raise ArgumentError("set", "must be FIELD=VALUE", option)
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        recipe = _changed(recipe, path.split("."), value, option)
    return recipe


def _changed(part: Any, path: list[str], value: Any, option: str) -> Any:
    key, *rest = path
    if isinstance(part, tuple):
        if not key.isdigit() or int(key) >= len(part):
            raise ArgumentError("set", f"must name a position below {len(part)}", option)
        position = int(key)
        new = _new(part[position], rest, value, option)
        return (*part[:position], new, *part[position + 1 :])
    known = {} if not dataclasses.is_dataclass(part) else {f.name for f in dataclasses.fields(part)}
    if key not in known:
        fields = ", ".join(sorted(known)) or "no"
        raise ArgumentError("set", f"must name one of {fields} fields", option)
    old = getattr(part, key)
    if old is None and not rest and isinstance(value, dict):
        made = _part(get_args(get_type_hints(type(part))[key])[0], value, option)
        return dataclasses.replace(part, **{key: made})
    return dataclasses.replace(part, **{key: _new(old, rest, value, option)})


def _part(kind: type[Any], value: dict[str, Any], option: str) -> Any:
    try:
        return typed_record(kind, value)
    except ValueError as error:
        raise ArgumentError("set", f"cannot be read: {error}", option) from error


def _new(old: Any, rest: list[str], value: Any, option: str) -> Any:
    if rest:
        return _changed(old, rest, value, option)
    if isinstance(value, list):
        like = next(iter(old), None) if isinstance(old, tuple) else None
        value = tuple(_item(like, item, option) for item in value)
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if dataclasses.is_dataclass(old) and value is None:
        return None
    plain = (bool, int, float, str, tuple)
    fits = type(value) is type(old) and isinstance(old, plain)
    if fits and isinstance(old, tuple):
        fits = len(value) > 0 and {type(v) for v in value} == {type(v) for v in old}
    if not fits:
        raise ArgumentError("set", f"must be of the kind of {old!r}", option)
    return value


def _item(like: Any, value: Any, option: str) -> Any:
    if isinstance(like, float) and type(value) is int:
        return float(value)
    if dataclasses.is_dataclass(like) and isinstance(value, dict):
        return _part(type(like), value, option)
    return value
