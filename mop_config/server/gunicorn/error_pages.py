"""The error pages that workers send without the application: problem documents (RFC 9457).

gunicorn's own pages repeat parts of the request, and lack the security headers of our answers.
"""

from http import HTTPStatus
from typing import Any

from gunicorn import util

from ..serving.conditional import problem


def page(status_code: int) -> bytes:
    """Return a whole response with ``Connection: close`` and a problem document.

    Args:
        status_code: HTTP status code.
    """
    status = HTTPStatus(status_code)
    answer = problem(status, status.description or status.phrase)
    lines = [f"HTTP/1.1 {status:d} {status.phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body


def write_error(sock: Any, status_int: int, _reason: str, _mesg: str) -> None:
    """Send an error page in place of ``gunicorn.util.write_error``.

    gunicorn's message repeats the request, which may hold a token.
    """
    util.write_nonblock(sock, page(status_int))
