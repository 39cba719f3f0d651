"""The description of the routes, for programs."""

from flask import Blueprint, Response, json, request, url_for

from ..openapi import document
from . import current_runtime

blueprint = Blueprint("openapi", __name__)


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Serve the description of this server's routes."""
    root = request.root_path
    # The dashboard is a sibling of this blueprint, wherever both are.
    own = str(request.endpoint).rpartition("openapi.openapi")[0]
    home = url_for(f"{own}dashboard.dashboard").removeprefix(root)
    guarded = current_runtime().keyring is not None
    body = json.dumps(document(root=root, home=home, guarded=guarded), separators=(",", ":"))
    response = Response(body + "\n", content_type="application/json")
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response
