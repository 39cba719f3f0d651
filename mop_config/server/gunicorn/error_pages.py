"""The error pages that workers send without the application: problem documents (RFC 9457).

gunicorn's own pages repeat parts of the request, and lack the security headers of our answers.
"""

from http import HTTPStatus
from typing import Any

from gunicorn import util

from ..serving.conditional import problem

_DETAILS = {
    400: "the request is malformed",
    403: "the request is not allowed here",
    408: "the request did not arrive in time",
    413: "the request is too large",
    414: "the request line is too long",
    417: "the request has an expectation that cannot be met",
    431: "the request's headers are too large, or too many",
    501: "the request's transfer coding is not known",
}
_OTHERWISE = "the server failed to answer; its log says why"


def page(status_code: int) -> bytes:
    """Return a whole response with ``Connection: close`` and a problem document.

    Args:
        status_code: HTTP status code.
    """
    status = HTTPStatus(status_code)
    answer = problem(status, _DETAILS.get(status, _OTHERWISE))
    lines = [f"HTTP/1.1 {status:d} {status.phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body


def install() -> None:
    """Replace ``write_error`` in ``gunicorn.util``, which workers look up at each call."""
    util.write_error = _write_error


def _write_error(sock: Any, status_int: int, _reason: str, _mesg: str) -> None:
    # gunicorn's message repeats the request, which may hold a token.
    util.write_nonblock(sock, page(status_int))
