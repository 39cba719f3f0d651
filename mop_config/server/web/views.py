"""The views of all routes but the dashboard.

First stand the routes of the list: plain, signed, its keys, health URLs, the QR code from which an
app reads its endpoints, and clients' reports.
Then follow the operational routes: health, readiness, status, reload, metrics and the description.
"""

import json
import logging
import os
import re
import time
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ... import qr
from ...errors import PayloadError, QrTooLong
from ...health.probe import DEFAULT_PATH
from ...model.endpoint import Endpoint, Kind, iter_endpoints, read_own
from ...model.jws import KEYS_MEDIA_TYPE, jwk_set
from ..auth import USER
from ..monitor.reports import parse_report
from ..parsing.problems import Code
from ..service import ConfigService, Places
from ..serving.answers import ConditionalAnswer, healthy, json_answer, problem, to_json, uncached
from ..serving.responder import LongPoll
from .guards import as_response, current_service, refusal, revalidated

logger = logging.getLogger(__name__)

#: The routes below the prefix of the configuration; the others stand at fixed paths.
blueprint = Blueprint("config", __name__)

#: Limit of the body of a report in bytes.
MAX_REPORT = 4096
_NUMBER = re.compile("[0-9]{1,9}")
_TYPES = {"svg": "image/svg+xml", "png": "image/png", "json": "application/json"}
#: gunicorn's and uvicorn's variable for the addresses of proxies, and its default.
_TRUSTED, _LOOPBACK = "FORWARDED_ALLOW_IPS", "127.0.0.1,::1"
#: Paths of the routes in ``openapi.json``.
_PLACES = Places()
#: HTTP status by the worst result of a reload; the key None means that no worker has answered.
_STATUS = {"applied": 200, "unchanged": 200, "rejected": 422, "error": 503, None: 504}


def _answer(*, signed: bool) -> Response:
    """Serve the list from the bytes of the snapshot, or as a compact JWS with a tag of its own."""
    service = current_service()
    environ = request.environ
    found = service.responder.respond(environ, signed=signed)
    if isinstance(found, LongPoll):
        found = found.wait(environ.get("gunicorn.socket"))
        # The token may have been revoked meanwhile.
        found = refusal(service, environ) or found
    return as_response(found)


blueprint.add_url_rule("/endpoints", "endpoints", partial(_answer, signed=False))
blueprint.add_url_rule("/endpoints.jws", "signed_endpoints", partial(_answer, signed=True))


@blueprint.get("/keys")
def keys() -> Response:
    """Serve the public keys as a JWK set (RFC 7517); the set is empty if lists are not signed."""
    key = current_service().signer.key
    return revalidated(json.dumps(jwk_set([] if key is None else [key])) + "\n", KEYS_MEDIA_TYPE)


@blueprint.get("/targets")
def targets() -> Response:
    """Serve the health URLs in the form of Prometheus' HTTP service discovery."""
    service = current_service()
    groups = targets_of(service.store.view.snapshot.plain.body, service.settings.health_path)
    return as_response(uncached(200, groups.encode(), "application/json"))


def targets_of(body: bytes, health_path: str = DEFAULT_PATH) -> str:
    """Return the target groups of a list as JSON; other threads may run between two groups.

    Args:
        body: The wire form of the served list.
        health_path: Path of a health check below the URL of an API endpoint.
    """
    groups = (
        to_json(target(kind, endpoint, health_path))
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
    base = re.sub("^ws", "http", url.rstrip("/"))
    if kind is Kind.API:
        return f"{base}{path}"
    mount = "" if urlsplit(base).path.endswith("/socket.io") else "/socket.io"
    return f"{base}{mount}/?EIO=4&transport=polling"


def _answer_code(kind: str) -> Response:
    try:
        found = choose(request.args, current_service().store.view.snapshot.plain.body)
    except PayloadError as error:
        return as_response(problem(400, str(error), {"parameter": error.field}))
    except QrTooLong as error:
        pairs = ({"format": form, "limit": limit} for form, limit in error.fits)
        fits = [{name: value for name, value in pair.items() if value} for pair in pairs]
        members = {"format": error.format, "bytes": error.size, "capacity": error.capacity}
        return as_response(problem(422, str(error), {**members, "fits": fits}))
    if found is None:
        return as_response(problem(404, "the list has no endpoint to put into a code"))
    text, title = found
    # The code must not be older than the list: an app may scan it at any time.
    return revalidated(_draw(kind, text, title), _TYPES[kind])


for _kind in _TYPES:
    blueprint.add_url_rule(f"/qr.{_kind}", _kind, partial(_answer_code, _kind))


def choose(given: Mapping[str, str], body: bytes) -> tuple[qr.QrText, str] | None:
    """Choose the text and the title of a code; None if the list is empty.

    Args:
        given: The parameters of the query; those of other names are ignored.
        body: The wire form of the list.

    Raises:
        PayloadError: If a parameter is invalid; the error names the parameter.
        QrTooLong: If the text does not fit.
    """
    form, room, number = given.get("format"), given.get("room_id"), given.get("limit")
    limit = None
    if number is not None:
        # Anything but a number becomes -1, which ``qr.check`` rejects.
        limit = int(number) if _NUMBER.fullmatch(number) else -1
    qr.check(form, room, limit)
    config = _decoded(body)
    if not config:
        return None
    text = qr.fit(config, form, room, limit)
    most = 1 if text.format == "single" else limit
    api, socketio = (len(listed[:most]) for listed in config.kinds().values())
    return text, f"QR code with {api} API and {socketio} Socket.io endpoints"


# The cache key is the body in the store: always the same bytes object, whose hash is cached.
_decoded = lru_cache(maxsize=1)(read_own)


# All viewers of the dashboard request the same images.
@lru_cache(maxsize=32)
def _draw(kind: str, text: qr.QrText, title: str) -> bytes:
    if kind == "json":
        return text.text.encode()
    return qr.image(text.text, kind, title=title)


@blueprint.post("/reports")
def report() -> Response:
    """Count how many requests of a client to each endpoint succeeded and failed.

    The answer is 204 also if none of its endpoints is in the list.
    """
    service = current_service()
    reports = service.reports
    if reports is None:
        return as_response(problem(404, "reports are off here (ENDPOINT_REPORTS)"))
    address = client_address(
        request.remote_addr or "",
        request.headers.get("X-Forwarded-For", ""),
        os.environ.get(_TRUSTED) or _LOOPBACK,
    )
    if request.mimetype != "application/json":
        return as_response(problem(415, "a report is application/json"))
    body = request.stream.read(MAX_REPORT + 1)
    if len(body) > MAX_REPORT:
        return as_response(problem(413, f"a report may have {MAX_REPORT} bytes"))
    try:
        counts = parse_report(body)
    except ValueError as error:
        return as_response(problem(400, str(error)))
    if not reports.add(counts, service.listed(), address, time.time()):
        refused = problem(429, "an address may report 10 times a minute")
        return as_response(refused.adding(("Retry-After", "60")))
    return Response(status=204, headers={"Cache-Control": "no-store"})


def client_address(peer: str, forwarded: str, trusted: str) -> str:
    """Return the address of the client, behind trusted proxies.

    Args:
        peer: Address of the connection's other end; empty for a Unix socket, which only a proxy of
            this machine can reach.
        forwarded: The request's ``X-Forwarded-For``; each proxy appends the address it sees.
        trusted: Addresses of the proxies, separated by commas; ``*`` trusts every address.
    """
    proxies = {"", *(name.strip() for name in trusted.split(","))}
    hops = [*filter(None, (hop.strip() for hop in forwarded.split(","))), peer]
    while len(hops) > 1 and (hops[-1] in proxies or "*" in proxies):
        hops.pop()
    return hops[-1]


def health(service: ConfigService, _environ: dict[str, Any]) -> ConditionalAnswer:
    """Return the answer of ``/health``."""
    return healthy(service.settings.service_name)


def ready(service: ConfigService, environ: dict[str, Any]) -> ConditionalAnswer:
    """Return the answer of ``/ready``: 200 if a list is served and kept up to date, else 503.

    The route needs no token, but the reason may name paths, users and members of etcd. If tokens
    are configured, only a request with a valid token gets the reason.
    """
    ok, readiness = service.ready()
    if service.authenticator is not None and service.authenticator.authorise(environ) is not None:
        readiness["reason"] = None
    return json_answer(200 if ok else 503, readiness)


@blueprint.get("/status")
def status() -> Response:
    """Serve the status document, which covers all workers of the host."""
    return as_response(json_answer(200, current_service().status()))


@blueprint.post("/reload")
def reload() -> Response:
    """Reload the source in every worker of the host, and answer when all workers have finished."""
    service = current_service()
    if service.authenticator is None:
        detail = "no tokens are set (ENDPOINT_TOKENS, ENDPOINT_TOKENS_FILE): nobody may do this"
        return as_response(problem(403, detail))
    logger.info("reload requested by %s", request.environ.get(USER))
    report, shared = service.reload_everywhere()
    problems = report.pop("problems")
    late = [worker["pid"] for worker in report["workers"] if worker["last_reload"] is None]
    members: dict[str, Any] = {"scope": "host" if shared else "worker", **report}
    if not shared:
        members["note"] = "the state folder cannot be written to: other workers were not asked"
    status = _STATUS[report["result"]]
    if late and status == 200:
        status = 504
    if status in {200, 422}:
        of_tokens = {Code.TOKENS_LINE, Code.DETACHED}  # a detached source is an error, not a 200
        members["problems"] = [p for p in problems if p["code"] not in of_tokens]
    if status == 200:
        return as_response(json_answer(200, members))
    return as_response(problem(status, _detail(report, late), members))


def _detail(report: dict[str, Any], late: list[int]) -> str:
    errors = (
        worker["last_reload"]["error"] for worker in report["workers"] if worker["last_reload"]
    )
    found = next(filter(None, errors), "")
    missing = f"no answer yet from worker {', '.join(map(str, late))}" if late else ""
    return "; ".join(filter(None, (found, missing)))


def metrics() -> Response:
    """Serve the metrics of all workers in Prometheus' text format."""
    service = current_service()
    text: bytes = service.metrics.expose(service.gauges())
    return as_response(uncached(200, text, CONTENT_TYPE_PLAIN_0_0_4))


def openapi() -> Response:
    """Serve the OpenAPI description of this application's routes."""
    service = current_service()
    guarded = service.authenticator is not None
    described = document(root=request.root_path, places=service.places, guarded=guarded)
    return revalidated(to_json(described) + "\n", "application/json")


def document(*, root: str = "", places: Places = _PLACES, guarded: bool = False) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of an application's routes.

    The file ``openapi.json`` describes the application of ``create_app`` at the root of its host.

    Args:
        root: Path that the application is mounted at, without a slash at its end.
        places: Paths of the routes below ``root``.
        guarded: Whether access tokens are configured.

    Returns:
        The document, to be read and not to be changed.
    """
    described = _description()
    dashboard = {_PLACES.home, f"{_PLACES.home}static/{{filename}}"}
    paths = {
        places.home + path.removeprefix(_PLACES.home)
        if path in dashboard
        else re.sub(f"^{_PLACES.prefix}(?=/)", places.prefix, path): operations
        for path, operations in described["paths"].items()
    }
    security: list[Any] = [{"bearer": []}, {"basic": []}] if guarded else []
    return {**described, "servers": [{"url": root or "/"}], "security": security, "paths": paths}


@cache
def _description() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(Path(__file__).with_name("openapi.json").read_bytes())
    return described
