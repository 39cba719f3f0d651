"""The HTTP interface as a Flask application; the only package that imports Flask.

Read ``app`` first: it builds the application and registers the routes. ``views`` and
``dashboard`` hold the views. This module has the functions that the views share.
"""

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, current_app, request
from werkzeug.datastructures import Headers

from ..service import EXTENSION, ConfigService
from ..serving.answers import ConditionalAnswer, problem

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


def problem_response(
    status: int, detail: str | None, members: Mapping[str, Any] | None = None
) -> Response:
    """Return a problem document as a Flask response; see ``problem``."""
    return as_response(problem(status, detail, members))


def revalidated(body: str | bytes, content_type: str) -> Response:
    """Return a response that a cache must revalidate by its ETag on each use."""
    response = Response(body, content_type=content_type)
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response
