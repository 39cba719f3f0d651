"""The bearer token for list sources, validated when it is set and before each use."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from ...errors import UpdateFailed

#: A token, or a function that returns the current token; None while no user is logged in.
Token = str | Callable[[], str | None] | None

# With any other character httpx2 would quote the header in its error message.
_FORM = re.compile(r"[!-~]+")


def checked_token(token: Any) -> Token:
    """Return the ``token`` of a manager.

    Raises:
        TypeError: If the token is neither a text, nor a plain function, nor None.
        ValueError: If the text is not a valid token; the message never shows the text.
    """
    called = getattr(token, "__call__", None)  # noqa: B004 - ``__call__`` may be async
    if inspect.iscoroutinefunction(token) or inspect.iscoroutinefunction(called):
        raise TypeError(
            "token must be a plain function, not an async one: updates run in threads, and none of"
            " them can await it"
        )
    if isinstance(token, str):
        if fault := _fault(token):
            raise ValueError(f"token {fault}")
    elif token is not None and not callable(token):
        raise TypeError(
            f"token must be a text, a function that gives one, or None, not {type(token).__name__}"
        )
    checked: Token = token
    return checked


def current_token(token: Any) -> str | None:
    """Return the current token, checked to be valid in a header; None without a token.

    Raises:
        UpdateFailed: If the token cannot be used; the message never shows the token.
    """
    found = token() if callable(token) else token
    if found is None:
        return None
    if inspect.iscoroutine(found):
        found.close()
    if not isinstance(found, str):
        fault = f"must be a text or None, not {type(found).__name__}"
    else:
        fault = _fault(found)
    if fault:
        raise UpdateFailed("invalid", (("the token", fault),))
    return str(found).strip()


def _fault(token: str) -> str:
    if not token.strip():
        return "is empty: None means that there is none"
    if not _FORM.fullmatch(token.strip()):
        return "holds characters that a bearer token cannot have"
    return ""
