"""Text for logs, commands and the dashboard: safe to print, and with nouns in their form. Pure.

``str.isprintable`` decides which characters are unprintable: control characters, bidirectional
overrides, U+2028 and U+2029, surrogates. A terminal executes control characters; control
characters break the lines of a log; a right-to-left override disguises a text.
"""

from collections.abc import Callable


def replace_unprintable(text: str, replace: Callable[[str], str], keep: str = "") -> str:
    """Replace each unprintable character.

    Args:
        text: Text from outside.
        replace: Returns the replacement of a character.
        keep: Unprintable characters that are not replaced.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else replace(c) for c in text)


def printable(text: str) -> str:
    """Escape unprintable characters in the spelling of Python's ``unicode_escape`` codec."""
    return replace_unprintable(text, lambda each: each.encode("unicode_escape").decode())


def blanked(text: str) -> str:
    """Replace unprintable characters by spaces, so that columns stay aligned."""
    return replace_unprintable(text, lambda _: " ")


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as ``2 errors``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
