"""The endpoints' health URLs, as Prometheus' HTTP service discovery takes them."""

import json
import time
from collections.abc import Iterator
from itertools import chain, islice

from flask import Blueprint, Response

from ...model.codec import iter_endpoints
from ...model.endpoint import Kind
from . import current_service
from .target_groups import target

blueprint = Blueprint("targets", __name__)

#: How many targets are made at a stretch, while other requests wait.
_CHUNK = 1000


@blueprint.get("/targets")
def targets() -> Response:
    """Serve the targets in the order of the list; of many, a part at a time."""
    body = current_service().store.view.snapshot.plain.body
    response = Response(written(body), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def written(body: bytes) -> Iterator[bytes]:
    """Write the answer a part at a time, with a pause for other requests after each.

    Args:
        body: The list as it is served.
    """
    groups = chain.from_iterable(
        (target(kind, endpoint) for endpoint in iter_endpoints(body, kind)) for kind in Kind
    )
    before = "["
    while chunk := list(islice(groups, _CHUNK)):
        yield (before + json.dumps(chunk, separators=(",", ":"))[1:-1]).encode()
        before = ","
        time.sleep(0)
    yield (before.strip(",") + "]\n").encode()
