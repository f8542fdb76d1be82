"""Every error a user can meet, one class per kind.

Messages name the argument (or file), the rule, the value received and, where one helps, a hint.
The command line prints them on one line and exits with code 2, or 3 for a `StoppedError`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from dualsmooth.engine.printable import printable


def reason_of(error: BaseException) -> str:
    """Kind and first 200 characters of an error that another library raised, on one line."""
    kind, text = type(error).__name__, " ".join(str(error).split())[:200]
    return f"{kind}: {text}" if text else kind


class DualSmoothError(Exception):
    """Base of all errors raised on purpose. As text it is one line that a terminal may show."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ArgumentError(DualSmoothError, ValueError):
    """An argument breaks its rule.

    Parameters
    ----------
    argument : str
        Name of the argument as the caller wrote it, for example ``sigma``.
    rule : str
        What must hold, for example ``must be a finite number > 0``.
    value : object
        What was received.
    hint : str
        What to do about it.
    """

    def __init__(self, argument: str, rule: str, value: object, hint: str = "") -> None:
        self.argument, self.rule, self.value, self.hint = argument, rule, value, hint
        text = str(value) if isinstance(value, str | PurePath) else repr(value)
        unclear = isinstance(value, str) and (not value.strip() or _is_number(value))
        received = repr(value) if unclear else text
        super().__init__(f"{argument} {rule}; received {received}" + (f" ({hint})" if hint else ""))


@contextmanager
def about_images_of(argument: str) -> Iterator[None]:
    """What reads a SPEC calls it ``data``: in the block, as the caller wrote it."""
    try:
        yield
    except ArgumentError as error:
        if error.argument != "data":
            raise
        raise ArgumentError(argument, error.rule, error.value, error.hint) from error


def _is_number(text: str) -> bool:
    """Whether a text without its quotes would look like the number it should have been."""
    try:
        float(text)
    except ValueError:
        return False
    return True


class FileError(DualSmoothError):
    """A data, bundle or run file is missing, truncated, corrupt or not what it claims to be."""

    def __init__(self, path: object, rule: str, value: object = "", hint: str = "") -> None:
        self.path, self.rule, self.value, self.hint = path, rule, value, hint
        received = f"; received {value}" if value != "" else ""
        super().__init__(f"{path}: {rule}{received}" + (f" ({hint})" if hint else ""))


class SamplerError(DualSmoothError):
    """A sampler broke its contract, for example by returning votes that do not add up."""


class StoppedError(DualSmoothError):
    """A run had to stop before its end; what it reached is on disk and it can be resumed."""
