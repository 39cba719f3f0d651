"""Errors as problem documents, RFC 9457."""

import json
from http import HTTPStatus

from flask import Response


def problem(status: int, detail: str | None) -> Response:
    """Make an ``application/problem+json`` answer.

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
    body = json.dumps(document, separators=(",", ":"))
    response = Response(body, status, content_type="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    return response
