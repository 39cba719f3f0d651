"""Takes what lets somebody in out of a text, before it gets into a log. Pure.

Requests come with tokens where none belong: in a header without its colon, in a query, in
the address of the page that led here.
"""

import re

MASK = "***"

_SECRETS = (
    # Those that ``mop-config token new`` makes, wherever they stand; our own name is none.
    (re.compile(r"mop_(?!config)[A-Za-z0-9_-]{8,}"), MASK),
    # A header that is no good one: nobody can tell where the token in it begins and ends.
    (re.compile(r"(authorization(?:[\s:=+]|%20|%3a)+).+", re.IGNORECASE | re.DOTALL), rf"\1{MASK}"),
    (re.compile(r"\b((?:bearer|basic)(?:[\s:=+]|%20|%3a)+)[^\s&]+", re.IGNORECASE), rf"\1{MASK}"),
    # A raw space ends a target; an ampersand, in either form, a parameter.
    (re.compile(r"(token(?:=|%3d))(?:(?!%26)[^\s&])+", re.IGNORECASE), rf"\1{MASK}"),
)


def masked(text: str) -> str:
    """Put three asterisks in the place of each token, and of whatever looks like one."""
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    return text
