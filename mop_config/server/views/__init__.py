"""One file a group of routes; each has a ``blueprint``."""

from typing import Any

from flask import Response, current_app, json

from ..runtime import EXTENSION, Runtime


def current_runtime() -> Runtime:
    """Give the runtime of the application that answers."""
    runtime: Runtime = current_app.extensions[EXTENSION]
    return runtime


def live_json(document: Any, status: int = 200) -> Response:
    """Answer with JSON that is true only now."""
    body = json.dumps(document, separators=(",", ":")) + "\n"
    response = Response(body, status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
