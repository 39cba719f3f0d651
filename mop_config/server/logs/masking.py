"""Masks tokens and passwords in texts before they are logged. Pure.

Requests may contain tokens in unexpected places: in a malformed header, in a query, in ``Referer``.
"""

import re

MASK = "***"

_SECRETS = (
    # Tokens of ``mop-config token new``, in any place; ``mop_config`` itself is no token.
    (re.compile(r"mop_(?!config)[A-Za-z0-9_-]{8,}"), MASK),
    # A malformed header: the limits of the token in it are unknown, so the rest is masked.
    (re.compile(r"(authorization(?:[\s:=+]|%20|%3a)+).+", re.IGNORECASE | re.DOTALL), rf"\1{MASK}"),
    (re.compile(r"\b((?:bearer|basic)(?:[\s:=+]|%20|%3a)+)[^\s&]+", re.IGNORECASE), rf"\1{MASK}"),
    # A space ends a request target, and an ampersand, raw or encoded, ends a parameter.
    (re.compile(r"(token(?:=|%3d))(?:(?!%26)[^\s&])+", re.IGNORECASE), rf"\1{MASK}"),
)


def masked(text: str) -> str:
    """Replace each token, and each text that looks like a token, by three asterisks."""
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    return text
