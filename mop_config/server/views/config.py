"""The list itself."""

from flask import Blueprint, Response, request
from werkzeug.datastructures import Headers

from ..answer import answer
from . import current_runtime

blueprint = Blueprint("config", __name__)


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
    response = Response(body, status)
    # Set afterwards: the constructor would count the empty body of an answer to HEAD.
    response.headers = Headers(answer_headers)
    return response
