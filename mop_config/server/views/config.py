"""The list itself."""

from flask import Blueprint, Response, request
from werkzeug.datastructures import Headers

from . import current_runtime

blueprint = Blueprint("config", __name__)


@blueprint.get("/api/v1/config/endpoints")
def endpoints() -> Response:
    """Serve the endpoint list, from the snapshot's ready-made bytes."""
    status, headers, body = current_runtime().responder.respond(request.environ)
    response = Response(body, status)
    # Set afterwards: the constructor would count the empty body of an answer to HEAD.
    response.headers = Headers(headers)
    return response
