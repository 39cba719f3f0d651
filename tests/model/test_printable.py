"""Tests of the one rule for text from outside that is printed."""

import pytest

from mop_config.cli.output import json_text
from mop_config.model.printable import blanked, printable, replace_unprintable

#: Line breaks, an escape sequence, C1, bidirectional overrides, U+2028, a surrogate.
DANGEROUS = ["\n", "\r", "\x1b", "\x85", "\x9b", "\u202e", "\u2066", "\u2028", "\u2029", "\ud800"]


@pytest.mark.parametrize("character", DANGEROUS)
def test_no_dangerous_character_is_left(character: str) -> None:
    """Logs escape it, columns blank it, and JSON writes it as a JSON escape."""
    text = f"北京 é{character}x"
    escape = character.encode("unicode_escape").decode()
    assert printable(text) == f"北京 é{escape}x"
    assert blanked(text) == "北京 é x"
    assert replace_unprintable(text, repr, keep=character) == text
    assert character not in json_text({"a": text}, None)


def test_printable_text_stays_as_it_is() -> None:
    """Letters of every script are printable."""
    assert printable("plain ~ 北京 é") == blanked("plain ~ 北京 é") == "plain ~ 北京 é"
