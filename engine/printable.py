"""Text of unknown origin as terminals, tables and pages may show it."""

import re

_ODD = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that Unicode calls printable and nobody can see."""

MOST = 2000


def printable(text: object) -> str:
    """Text with every control, format, bidirectional or invisible character as an escape.

    Of a very long one the middle is left out.
    """
    found = str(text)
    if len(found) > MOST:
        found = f"{found[: MOST // 2]} .. {found[-MOST // 4 :]}"
    if found.isprintable() and not _ODD.search(found):
        return found
    return "".join(c if c.isprintable() and not _ODD.match(c) else _escape(c) for c in found)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
