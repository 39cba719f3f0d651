"""The description of the routes, for programs."""

from flask import Response, json, request

from . import current_service
from .openapi import document


def openapi() -> Response:
    """Serve the description of this server's routes."""
    runtime = current_service()
    described = document(
        root=request.root_path, places=runtime.places, guarded=runtime.keyring is not None
    )
    body = json.dumps(described, separators=(",", ":"))
    response = Response(body + "\n", content_type="application/json")
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response
