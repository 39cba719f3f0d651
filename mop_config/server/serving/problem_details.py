"""problem_details writes an error as a problem document (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from .security import SECURITY_HEADERS
from .snapshot import Headers


def problem_details(
    status: int, detail: str | None, members: Mapping[str, Any] | None = None
) -> tuple[Headers, bytes]:
    """Return the headers and the body of an ``application/problem+json`` answer.

    Args:
        status: HTTP status code.
        detail: The reason in words, for people; None if there is none.
        members: The same reason for programs, as extension members of the document
            (RFC 9457, 3.2); None adds no member.
    """
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **(members or {}),
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    headers = (
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *SECURITY_HEADERS,
    )
    return headers, body
