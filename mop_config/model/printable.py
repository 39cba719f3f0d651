"""Text from outside, made safe to print: one rule for logs, commands and the dashboard. Pure.

A character is unprintable where ``str.isprintable`` says so: control characters, bidirectional
overrides, U+2028 and U+2029, surrogates. A terminal would obey them, a log would break its line
at them, and a right-to-left override lets a text read as what it is not.
"""

import re
from collections.abc import Callable

_SUSPECT = re.compile(r"[^\x20-\x7e]")


def replace_unprintable(text: str, replace: Callable[[str], str], keep: str = "") -> str:
    """Replace each unprintable character.

    Args:
        text: Text from outside.
        replace: Returns what stands for a character.
        keep: Unprintable characters that stay as they are.
    """

    def replaced(match: re.Match[str]) -> str:
        character = match[0]
        return character if character.isprintable() or character in keep else replace(character)

    return _SUSPECT.sub(replaced, text)


def printable(text: str) -> str:
    """Escape unprintable characters in the spelling of Python's ``unicode_escape`` codec."""
    return replace_unprintable(text, _escape)


def blanked(text: str, keep: str = "") -> str:
    """Replace unprintable characters by spaces, so that columns stay aligned.

    Args:
        text: Text from outside.
        keep: Unprintable characters that stay as they are.
    """
    return replace_unprintable(text, lambda _: " ", keep)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
