"""The list itself."""

from flask import Blueprint, Response, request
from werkzeug.datastructures import Headers

from . import current_service

blueprint = Blueprint("config", __name__)


@blueprint.get("/endpoints")
def endpoints() -> Response:
    """Serve the endpoint list, from the snapshot's ready-made bytes."""
    return _answer(signed=False)


@blueprint.get("/endpoints.jws")
def signed_endpoints() -> Response:
    """Serve the endpoint list as a compact JWS, with a tag of its own."""
    return _answer(signed=True)


def _answer(*, signed: bool) -> Response:
    responder = current_service().responder
    status, headers, body = responder.respond(request.environ, signed=signed)
    response = Response(body, status)
    # Set afterwards: the constructor would count the empty body of an answer to HEAD.
    response.headers = Headers(headers)
    return response
