"""Errors as problem documents, RFC 9457."""

import json
from http import HTTPStatus

from flask import Response

from .snapshot import Headers


def problem_answer(status: int, detail: str | None) -> tuple[Headers, bytes]:
    """Give the headers and the body of an ``application/problem+json`` answer.

    Args:
        status: HTTP status code.
        detail: What went wrong with this request, for a person.
    """
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    headers = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return headers, body


def problem(status: int, detail: str | None) -> Response:
    """Make a problem document a response of Flask's; see ``problem_answer``."""
    headers, body = problem_answer(status, detail)
    return Response(body, status, headers)
