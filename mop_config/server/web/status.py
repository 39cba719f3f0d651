"""What every worker of this host serves, since when, and what is wrong in the file."""

from flask import Blueprint, Response

from . import current_service, live_json

blueprint = Blueprint("status", __name__)


@blueprint.get("/status")
def status() -> Response:
    """Serve the status document; any worker's answer speaks for all of them."""
    return live_json(current_service().status())
