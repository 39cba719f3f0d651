"""What Prometheus is to ask for each endpoint's health. Pure."""

from typing import Any

from ...model.address import parse_url
from ...model.endpoint import Endpoint, Kind


def target(kind: str, endpoint: Endpoint) -> dict[str, Any]:
    """Give an endpoint as a target group of Prometheus' HTTP service discovery.

    The target is the URL that an exporter such as blackbox_exporter asks: ``{url}/health``
    for an API endpoint, the Engine.IO handshake for a Socket.io endpoint.

    Args:
        kind: ``api`` or ``socketio``.
        endpoint: The endpoint.
    """
    labels = {"kind": kind, "priority": str(endpoint.priority), "url": endpoint.url}
    if endpoint.server_name is not None:
        # blackbox_exporter's parameter for the name in Host and TLS.
        labels["__param_hostname"] = endpoint.server_name
    return {"targets": [health_url(kind, endpoint.url)], "labels": labels}


def health_url(kind: str, url: str) -> str:
    """Give the URL that is asked for an endpoint's health, with http or https."""
    base = url.rstrip("/")
    if kind == Kind.API:
        return f"{base}/health"
    if base.startswith("ws"):
        base = "http" + base[2:]
    # "https://socket.io" ends so too, in its host.
    mounted = base.endswith("/socket.io") and parse_url(url).path.rstrip("/") != ""
    return f"{base}{'' if mounted else '/socket.io'}/?EIO=4&transport=polling"
