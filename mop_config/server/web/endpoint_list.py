"""The routes of the endpoint list: plain, signed, its keys, health URLs, and clients' reports."""

import json
import os
import time
from typing import Any

from flask import Blueprint, Response, request

from ...health.probe import DEFAULT_PATH
from ...model.address import parse_url
from ...model.codec import iter_endpoints
from ...model.endpoint import Endpoint, Kind
from ...model.jws import jwk_set
from ...model.keys import MEDIA_TYPE
from ..auth.policy import client_address
from ..monitor.reports import parse_report
from ..serving.responder import LongPoll
from . import as_response, current_service, problem_response, revalidated
from .guards import token_refusal

blueprint = Blueprint("config", __name__)

#: Limit of the body of a report in bytes.
MAX_REPORT = 4096
#: gunicorn's and uvicorn's variable for the addresses of proxies, and its default.
_TRUSTED, _LOOPBACK = "FORWARDED_ALLOW_IPS", "127.0.0.1,::1"


@blueprint.get("/endpoints")
def endpoints() -> Response:
    """Serve the endpoint list, from the ready-made bytes of the snapshot."""
    return _answer(signed=False)


@blueprint.get("/endpoints.jws")
def signed_endpoints() -> Response:
    """Serve the endpoint list as a compact JWS, with a tag of its own."""
    return _answer(signed=True)


def _answer(*, signed: bool) -> Response:
    service, environ = current_service(), request.environ
    found = service.responder.respond(environ, signed=signed)
    if isinstance(found, LongPoll):
        found = found.wait(environ.get("gunicorn.socket"))
        found = token_refusal(service, environ) or found
    return as_response(found)


@blueprint.get("/keys")
def keys() -> Response:
    """Serve the public keys as a JWK set (RFC 7517); the set is empty if lists are not signed."""
    key = current_service().signer.key
    return revalidated(json.dumps(jwk_set([] if key is None else [key])) + "\n", MEDIA_TYPE)


@blueprint.get("/targets")
def targets() -> Response:
    """Serve the health URLs in the form of Prometheus' HTTP service discovery."""
    service = current_service()
    body = service.store.view.snapshot.plain.body
    response = Response(
        targets_of(body, service.settings.health_path), content_type="application/json"
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def targets_of(body: bytes, health_path: str = DEFAULT_PATH) -> str:
    """Return the target groups of a list as JSON; other threads may run between two groups.

    Args:
        body: The wire form of the served list.
        health_path: Path of a health check below the URL of an API endpoint.
    """
    groups = (
        json.dumps(target(kind, endpoint, health_path), separators=(",", ":"))
        for kind in Kind
        for endpoint in iter_endpoints(body, kind)
    )
    return f"[{','.join(groups)}]\n"


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


@blueprint.post("/reports")
def report() -> Response:
    """Count how many requests of a client to each endpoint succeeded and failed.

    The answer is 204 also if none of its endpoints is in the list.
    """
    service = current_service()
    reports = service.reports
    if reports is None:
        return problem_response(404, "reports are off here (ENDPOINT_REPORTS)")
    address = client_address(
        request.remote_addr or "",
        request.headers.get("X-Forwarded-For", ""),
        os.environ.get(_TRUSTED) or _LOOPBACK,
    )
    if not reports.admit(address, time.monotonic()):
        response = problem_response(429, "an address may report 10 times a minute")
        response.headers["Retry-After"] = "60"
        return response
    if request.mimetype != "application/json":
        return problem_response(415, "a report is application/json")
    body = request.stream.read(MAX_REPORT + 1)
    if len(body) > MAX_REPORT:
        return problem_response(413, f"a report may have {MAX_REPORT} bytes")
    try:
        counts = parse_report(body)
    except ValueError as error:
        return problem_response(400, str(error))
    reports.add(counts, service.listed())
    response = Response(status=204)
    response.headers["Cache-Control"] = "no-store"
    return response
