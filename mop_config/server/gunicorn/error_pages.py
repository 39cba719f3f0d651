"""What gunicorn answers where a request does not reach the application.

Its own pages repeat what was sent, and lack the headers that every other answer has.
"""

from http import HTTPStatus
from typing import Any

from gunicorn import util

from ..serving.problem_details import problem_details

_DETAILS = {
    400: "the request is malformed",
    403: "the request is not allowed here",
    414: "the request line is too long",
    417: "what the request expects cannot be met",
    431: "the request's headers are too large, or too many",
    501: "the request's transfer coding is not known",
}
_OTHERWISE = "the server failed to answer; its log says why"


def install() -> None:
    """Let this process's workers, of whichever class, answer with problem documents.

    They all look the function up in its module when they need it.
    """
    util.write_error = write_error


def write_error(sock: Any, status_int: int, _reason: str, _mesg: str) -> None:
    """Answer on a socket that is to be closed; in the place of gunicorn's function.

    Args:
        sock: The client's.
        status_int: HTTP status code.
        _reason: gunicorn says ``Bad Request`` with a 501.
        _mesg: It repeats the request, which may hold a token.
    """
    status = HTTPStatus(status_int)
    headers, body = problem_details(status, _DETAILS.get(status, _OTHERWISE))
    lines = [f"HTTP/1.1 {status:d} {status.phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    util.write_nonblock(sock, "\r\n".join([*lines, "", ""]).encode("latin-1") + body)
