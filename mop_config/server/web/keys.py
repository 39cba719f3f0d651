"""The public keys that lists are signed with."""

from flask import Blueprint, Response, json, request

from ...model.jws import jwk_set
from ...model.keys import MEDIA_TYPE
from . import current_service

blueprint = Blueprint("keys", __name__)


@blueprint.get("/keys")
def keys() -> Response:
    """Serve the public keys as a JWK set (RFC 7517); it is empty where there is none."""
    runtime = current_service()
    key = runtime.signer.key
    document = jwk_set([] if key is None else [key])
    response = Response(json.dumps(document) + "\n", content_type=MEDIA_TYPE)
    response.headers["Cache-Control"] = "no-cache"  # whoever asks must see a rotation at once
    response.add_etag()
    response.make_conditional(request)
    return response
