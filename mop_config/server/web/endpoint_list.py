"""The routes of the endpoint list, plain and signed, and of the keys that verify it."""

from flask import Blueprint, Response, json, request

from ...model.jws import jwk_set
from ...model.keys import MEDIA_TYPE
from ..serving.responder import LongPoll
from . import as_response, current_service

blueprint = Blueprint("config", __name__)


@blueprint.get("/endpoints")
def endpoints() -> Response:
    """Serve the endpoint list, from the ready-made bytes of the snapshot."""
    return _answer(signed=False)


@blueprint.get("/endpoints.jws")
def signed_endpoints() -> Response:
    """Serve the endpoint list as a compact JWS, with a tag of its own."""
    return _answer(signed=True)


@blueprint.get("/keys")
def keys() -> Response:
    """Serve the public keys as a JWK set (RFC 7517); the set is empty if lists are not signed."""
    service = current_service()
    key = service.signer.key
    document = jwk_set([] if key is None else [key])
    response = Response(json.dumps(document) + "\n", content_type=MEDIA_TYPE)
    response.headers["Cache-Control"] = "no-cache"  # a rotation must be seen at once
    response.add_etag()
    response.make_conditional(request)
    return response


def _answer(*, signed: bool) -> Response:
    found = current_service().responder.respond(request.environ, signed=signed)
    if isinstance(found, LongPoll):
        found = found.wait(request.environ.get("gunicorn.socket"))
    return as_response(found)
