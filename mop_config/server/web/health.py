"""Is the process alive, and may it be sent requests?"""

from flask import Blueprint, Response, request

from ... import __version__
from . import current_service, live_json

blueprint = Blueprint("health", __name__)


@blueprint.get("/api/v1/health")
def health() -> Response:
    """Answer a health check: that there is an answer is all it says."""
    service = current_service().settings.service_name
    return live_json({"status": "healthy", "service": service, "version": __version__})


def ready() -> Response:
    """Say whether a list is served and kept up to date.

    The route is open to all, and the reason may name paths, users and members of etcd. So where
    tokens are set, only a request with a token gets the reason.
    """
    runtime = current_service()
    ok, document = runtime.ready()
    if runtime.keyring is not None and not runtime.keyring.admits(request.environ):
        document["reason"] = None
    return live_json(document, 200 if ok else 503)
