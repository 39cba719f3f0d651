"""The operational routes: health, readiness, status, reload, metrics and the description."""

import json
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ... import __version__
from ..auth.policy import USER
from ..parsing.problems import Code
from ..service import ConfigService, Places
from ..serving.conditional import ConditionalAnswer, json_answer
from . import as_response, current_service, problem_response, revalidated

logger = logging.getLogger(__name__)

#: The routes below the prefix of the configuration; the others stand at fixed paths.
blueprint = Blueprint("operations", __name__)

#: Paths of the routes in ``openapi.json``.
_PLACES = Places()
#: HTTP status by the worst result of a reload; the key None means that no worker has answered.
_STATUS = {"applied": 200, "unchanged": 200, "rejected": 422, "error": 503, None: 504}


def health() -> Response:
    """Answer a liveness check."""
    return as_response(health_answer(current_service()))


def ready() -> Response:
    """Answer a readiness check."""
    return as_response(ready_answer(current_service(), request.environ))


def health_answer(service: ConfigService) -> ConditionalAnswer:
    """Return the answer of ``/health``, which only says that this process answers."""
    name = service.settings.service_name
    return json_answer(200, {"status": "healthy", "service": name, "version": __version__})


def ready_answer(service: ConfigService, environ: dict[str, Any]) -> ConditionalAnswer:
    """Return the answer of ``/ready``: 200 if a list is served and kept up to date, else 503.

    The route needs no token, but the reason may name paths, users and members of etcd. If tokens
    are configured, only a request with a valid token gets the reason.
    """
    ok, readiness = service.ready()
    if service.authenticator is not None and not service.authenticator.admits(environ):
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
        return problem_response(403, detail)
    user = request.environ.get(USER)
    logger.info("reload requested by %s", user)
    report, shared = service.reload_everywhere()
    problems = report.pop("problems")
    late = [worker["pid"] for worker in report["workers"] if worker["last_reload"] is None]
    members: dict[str, Any] = {"scope": "host" if shared else "worker", **report}
    if not shared:
        members["note"] = "the state folder cannot be written to: other workers were not asked"
    status = 504 if late and report["result"] in {"applied", "unchanged"} else None
    status = status or _STATUS[report["result"]]
    logger.info(
        "reload requested by %s: %s in %d workers, %d have not answered",
        user,
        report["result"] or "no answer",
        len(report["workers"]) - len(late),
        len(late),
    )
    if status in {200, 422}:
        members["problems"] = [p for p in problems if p["code"] != Code.TOKENS_LINE]
    if status == 200:
        return as_response(json_answer(200, members))
    return problem_response(status, _detail(report, late), members)


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
    text = service.metrics.expose(service.gauges())
    response = Response(text, content_type=CONTENT_TYPE_PLAIN_0_0_4)
    response.headers["Cache-Control"] = "no-store"
    return response


def openapi() -> Response:
    """Serve the OpenAPI description of this application's routes."""
    service = current_service()
    guarded = service.authenticator is not None
    described = document(root=request.root_path, places=service.places, guarded=guarded)
    return revalidated(json.dumps(described, separators=(",", ":")) + "\n", "application/json")


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
    dashboard = {_PLACES.home, f"{_PLACES.home}static/{{name}}"}
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
