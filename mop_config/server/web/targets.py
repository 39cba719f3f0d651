"""The health URLs of the endpoints, in the form of Prometheus' HTTP service discovery."""

import json
import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from flask import Blueprint, Response

from ...health.probe import DEFAULT_PATH
from ...model.address import parse_url
from ...model.codec import iter_endpoints
from ...model.endpoint import Endpoint, Kind
from . import current_service

blueprint = Blueprint("targets", __name__)

#: Targets in a chunk of the response; after each chunk other threads may run.
_CHUNK = 1000


@blueprint.get("/targets")
def targets() -> Response:
    """Serve the targets in the order of the list; a long list is streamed in chunks."""
    service = current_service()
    body = service.store.view.snapshot.plain.body
    response = Response(
        written(body, service.settings.health_path), content_type="application/json"
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def written(body: bytes, health_path: str = DEFAULT_PATH) -> Iterator[bytes]:
    """Yield the response body in chunks, and let other threads run after each.

    Args:
        body: The wire form of the served list.
        health_path: Path of a health check below the URL of an API endpoint.
    """
    groups = chain.from_iterable(
        (target(kind, endpoint, health_path) for endpoint in iter_endpoints(body, kind))
        for kind in Kind
    )
    before = "["
    while chunk := list(islice(groups, _CHUNK)):
        yield (before + json.dumps(chunk, separators=(",", ":"))[1:-1]).encode()
        before = ","
        time.sleep(0)
    yield (before.strip(",") + "]\n").encode()


def target(kind: Kind, endpoint: Endpoint, health_path: str = DEFAULT_PATH) -> dict[str, Any]:
    """Return an endpoint as a target group.

    The target is the URL that an exporter such as blackbox_exporter requests: ``{url}`` and
    the health path for an API endpoint, the Engine.IO handshake for a Socket.io endpoint.
    """
    labels = {"kind": kind.value, "priority": str(endpoint.priority), "url": endpoint.url}
    if endpoint.server_name is not None:
        # blackbox_exporter's parameter for the name in Host and TLS.
        labels["__param_hostname"] = endpoint.server_name
    return {"targets": [health_url(kind, endpoint.url, health_path)], "labels": labels}


def health_url(kind: Kind, url: str, path: str = DEFAULT_PATH) -> str:
    """Return the URL that a health check of an endpoint requests, with http or https."""
    base = url.rstrip("/")
    if kind is Kind.API:
        return f"{base}{path}"
    if base.startswith("ws"):
        base = "http" + base[2:]
    # The host of "https://socket.io" ends with this suffix too.
    mounted = base.endswith("/socket.io") and parse_url(url).path.rstrip("/") != ""
    return f"{base}{'' if mounted else '/socket.io'}/?EIO=4&transport=polling"
