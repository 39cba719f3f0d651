"""The list itself."""

from flask import Blueprint, Response, request

from ..answer import answer
from . import current_runtime

blueprint = Blueprint("mop_config", __name__)


@blueprint.get("/api/v1/config/endpoints")
def endpoints() -> Response:
    """Serve the endpoint list, from the snapshot's ready-made bytes."""
    headers = request.headers
    status, answer_headers, body = answer(
        current_runtime().store.view.snapshot,
        request.method,
        headers.get("Accept-Encoding"),
        headers.get("If-None-Match"),
        headers.get("If-Modified-Since"),
    )
    return Response(body, status, answer_headers)
