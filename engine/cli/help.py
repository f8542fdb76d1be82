"""How commands show themselves: options in groups, and what was perhaps meant."""

import inspect
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from itertools import zip_longest
from typing import Any

from typer.core import TyperCommand, TyperGroup

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import at_home

GROUPS = {
    "Votes": "budget radii tolerance n0 n alpha noise seed",
    "Machine": "device precision backend batch_size threads slots workers ray",
    "Run folder": "out resume fresh reuse",
}
"""Options by the heading they stand under, in every command that has some of them."""


_NUMBERS = {"number": "must be a number, such as 0.25", "integer": "must be a whole number"}

DEFAULTS = {"--replay": "0.02"}
"""Values of options that may stand without one, unless a number follows."""


class Command(TyperCommand):
    """A command whose help is grouped, with flags and arguments as they are written."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", self.help or "")
        for parameter in _with_plain_types(self.params):
            if parameter.param_type_name == "option" and parameter.rich_help_panel is None:
                name = parameter.name.rstrip("_")
                titles = (title for title, names in GROUPS.items() if name in names.split())
                parameter.rich_help_panel = next(titles, None)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with what may be left out behind an option put there, and ``~`` replaced
        where no shell does it, as in ``--out=~/run``.
        """
        whole, args = list[str](), list(map(_at_home, args))
        for word, following in zip_longest(args, args[1:], fillvalue=""):
            plain = word in DEFAULTS and not re.match(r"[-+.]?\d", following)
            whole += [word, DEFAULTS[word]] if plain else [word]
        return super().parse_args(ctx, whole)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line without braces, and with one ellipsis after what may be repeated."""
        pieces = super().collect_usage_pieces(ctx)
        plain = (piece.replace("{", "").replace("}", "") for piece in pieces)
        return [piece.replace("......", "...").replace("...]...", "]...") for piece in plain]

    def get_help_option(self, ctx: Any) -> Any:
        """``--help``, a flag like others."""
        return _with_plain_types([super().get_help_option(ctx)])[0]


def _at_home(word: str) -> str:
    """An argument, or an option with its value, the home folder in the place of a leading ``~``."""
    option, value = re.fullmatch(r"(--[\w-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]
    return option + str(at_home(value)) if value.startswith("~") else word


class Group(TyperGroup):
    """The command itself, whose flags are written like those of its commands."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _with_plain_types(self.params)

    def get_help_option(self, ctx: Any) -> Any:
        """``--help``, a flag like others."""
        return _with_plain_types([super().get_help_option(ctx)])[0]


def _with_plain_types(parameters: Any) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        parameter.display_type = partial(_plain_type, parameter.display_type)
    return list(parameters)


def _plain_type(shown: Callable[[Any], str], ctx: Any) -> str:
    """``<path>``, not ``<list[Path]>``: help says in words what may be repeated."""
    return re.sub(r"list\[(\w+)\]", r"\1", shown(ctx)).lower()


def with_parameters(
    added: Iterable[inspect.Parameter],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these parameters in the place of its ``**options``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command)
        kept = (p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD)
        changed = own.replace(parameters=[*kept, *added])
        command.__signature__ = changed  # type: ignore[attr-defined]
        return command

    return decorate


def belong(owner: str, **options: object) -> None:
    """Refuse options that say nothing without another, their owner, which was not given."""
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(name, f"belongs to {owner}", value)


def numbers_in(name: str, text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(name, "must be numbers with commas between them", text) from None


def whole_number(text: str | int) -> int:
    """A number of votes or images: 10000, 10_000, 1e4; `ValueError` for what is not whole."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        value = float(text)
        if value.is_integer() and abs(value) < 1 << 53:
            return int(value)
    raise ValueError(f"{text!r} must be a whole number, such as 10000 or 1e4")


def meant(error: Any) -> str:
    """What an error about usage says, with the one option that was perhaps meant."""
    if extra := re.match(r"Got unexpected extra argument.*\(([^\s)]*)", str(error)):
        names = [p.name for p in error.ctx.command.params] if error.ctx else []
        of_images = "data" in names and "run" not in names
        hint = ": images are named by --data" if of_images else ""
        if re.fullmatch(r"[-+.,\de]+", extra[1]):
            hint = ": numbers of a list have commas between them, as 0.25,0.5"
        return f"{error.format_message()}{hint}"
    option, known = getattr(error, "option_name", ""), getattr(error, "possibilities", None)
    closest = get_close_matches(option, known or (), n=1)
    every = getattr(error.ctx.command, "commands", {}) if option and error.ctx else {}
    if any(option in p.opts for command in every.values() for p in command.params):
        return f"{error.message}: options stand behind the command"
    if not closest:
        parsed = getattr(error.__cause__, "errors", None)  # of the type that was not met
        received = f"; received {parsed()[0]['input']}" if parsed else ""
        said = " ".join(error.format_message().replace("Value error, ", "").split())
        for kind, rule in _NUMBERS.items():
            said = re.sub(rf"Input should be a valid {kind},.*", rule, said)
        return said + received
    return f"{' '.join(error.message.split())}. Did you mean {closest[0]}?"
