"""The HTTP interface as a Flask application; the only package that imports Flask.

Read ``app`` first: it builds the application and registers the routes. ``endpoint_list``,
``operations``, ``qr``, ``targets`` and ``dashboard`` hold the views, ``openapi`` describes them.
This module has what the views share.
"""

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, current_app, json

from ..service import EXTENSION, ConfigService
from ..serving.problem_details import problem_details

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


def live_json(document: Any, status: int = 200) -> Response:
    """Return a JSON response that must not be cached."""
    body = json.dumps(document, separators=(",", ":")) + "\n"
    response = Response(body, status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def problem_response(
    status: int, detail: str | None, members: Mapping[str, Any] | None = None
) -> Response:
    """Return a problem document as a Flask response; see ``problem_details``."""
    headers, body = problem_details(status, detail, members)
    return Response(body, status, headers)
