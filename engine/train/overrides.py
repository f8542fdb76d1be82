"""Fields of a recipe changed by text: `selecting.epochs=5`, `experts.0.pull=5`."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from dualsmooth.engine.checks import did_you_mean
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
    known = [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
    if key not in known:
        rule = f"must name a field: {', '.join(sorted(known)) or 'there is none below a value'}"
        deeper = [f"{name}.{key}" for name in known if _has(getattr(part, name), key)]
        hint = did_you_mean(key, known) or f"perhaps {' or '.join(deeper)}" * bool(deeper)
        raise ArgumentError("set", rule, option, hint)
    old, kinds = getattr(part, key), get_args(get_type_hints(type(part))[key])
    if value is None and not rest and type(None) in kinds:
        return dataclasses.replace(part, **{key: None})
    if old is None and not rest:
        return dataclasses.replace(part, **{key: _part(kinds[0], value, option)})
    return dataclasses.replace(part, **{key: _new(old, rest, value, option)})


def _has(part: Any, key: str) -> bool:
    return dataclasses.is_dataclass(part) and key in {f.name for f in dataclasses.fields(part)}


def _part(kind: type[Any], value: Any, option: str) -> Any:
    if not isinstance(value, dict):
        fields = ", ".join(f'"{field.name}": ..' for field in dataclasses.fields(kind))
        raise ArgumentError("set", f"must be null or an object {{{fields}}}", option)
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
    plain = (bool, int, float, str, tuple)
    fits = type(value) is type(old) and isinstance(old, plain)
    if fits and isinstance(old, tuple):
        fits = len(value) > 0 and {type(v) for v in value} == {type(v) for v in old}
    if not fits:
        raise ArgumentError("set", f"must be a value such as {_example(old, option)}", option)
    return value


def _example(old: Any, option: str) -> str:
    """What is there, as it would be set: of a part one field."""
    path = option.partition("=")[0]
    if dataclasses.is_dataclass(old):
        name, old = next((f.name, getattr(old, f.name)) for f in dataclasses.fields(old))
        path = f"{path}.{name}"
    return f"{path}={json.dumps(old, default=dataclasses.asdict)}"


def _item(like: Any, value: Any, option: str) -> Any:
    if isinstance(like, float) and type(value) is int:
        return float(value)
    if dataclasses.is_dataclass(like) and isinstance(value, dict):
        return _part(type(like), value, option)
    return value
