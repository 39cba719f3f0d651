"""The HTTP interface as a Flask application; the only package that imports Flask.

Read ``app`` first: it builds the application and registers the routes. ``endpoint_list``,
``operations``, ``qr``, ``targets`` and ``dashboard`` hold the views, ``openapi`` describes them.
This module has the functions that the views share.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app
from werkzeug.datastructures import Headers

from ..service import EXTENSION, ConfigService
from ..serving.conditional import ConditionalAnswer
from ..serving.problem_details import problem_details
from ..serving.security import SECURITY_HEADERS

#: Import name of the Flask application of ``create_app``, which decides its instance folder.
PACKAGE = "mop_config"


def instance_folder() -> str:
    """Return the default of ``ENDPOINT_STATE_DIR``: the instance folder of ``create_app``'s Flask.

    gunicorn's master and ``mop-config publish`` need the path without an application.
    """
    return Flask(PACKAGE).instance_path


def current_service() -> ConfigService:
    """Return the service of the current Flask application."""
    service: ConfigService = current_app.extensions[EXTENSION]
    return service


def as_response(answer: ConditionalAnswer) -> Response:
    """Convert an answer to a Flask response."""
    response = Response(answer.body, answer.status)
    # Set after construction: the constructor would set Content-Length 0 for HEAD's empty body.
    response.headers = Headers(answer.headers)
    return response


def live_answer(document: Any, status: int = 200) -> ConditionalAnswer:
    """Return a JSON answer that must not be cached."""
    body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    headers = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *SECURITY_HEADERS,
    )
    return ConditionalAnswer(f"{status} {HTTPStatus(status).phrase.upper()}", headers, body)


def live_json(document: Any, status: int = 200) -> Response:
    """Return a JSON response that must not be cached."""
    return as_response(live_answer(document, status))


def problem_response(
    status: int, detail: str | None, members: Mapping[str, Any] | None = None
) -> Response:
    """Return a problem document as a Flask response; see ``problem_details``."""
    headers, body = problem_details(status, detail, members)
    return Response(body, status, headers)
