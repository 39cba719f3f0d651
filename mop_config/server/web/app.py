"""The Flask application: the routes of a service, their guards, and errors as problem documents."""

import contextlib
import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_from_bytes

from flask import Blueprint, Flask, Response, redirect, request
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.routing import BaseConverter

from ...errors import MopConfigError, SettingsError
from ...model.printable import printable
from ..auth.policy import cors_headers, is_trusted
from ..logs.format import describe, log_to_stderr
from ..service import EXTENSION, ConfigService, Places
from ..serving.conditional import forget_long_values
from ..serving.security import SECURITY_HEADERS
from ..settings import PREFIX, Settings
from ..signal_handlers import reload_on_sighup
from ..status.metrics import OTHER
from . import (
    PACKAGE,
    dashboard,
    endpoint_list,
    operations,
    problem_response,
    qr,
    reports,
    targets,
)
from .hotpath import HotPath

logger = logging.getLogger(__name__)

#: gunicorn's exit code for "do not start this worker again".
_BOOT_ERROR = 3
#: Where the dashboard is in an application that is not ours.
GUEST_PREFIX = "/mop-config"
_FOR_ANY_HOST = frozenset({"/health", "/ready"})
_OPERATIONS: dict[str, Callable[[], Response]] = {
    "health": operations.health,
    "ready": operations.ready,
    "metrics": operations.metrics,
    "openapi.json": operations.openapi,
}
_OPERATION = "operation"
_ASCII = bytes(range(0x21, 0x7F)).decode()
#: Bytes of a request's body: no route of ours needs one.
MAX_BODY = 64 * 1024


def create_app(settings: Settings | None = None, *, start: bool = True) -> Flask:
    """Build the application.

    Nothing that the endpoint file or the state folder holds makes this raise.

    Args:
        settings: What to serve, and how; None reads the environment.
        start: Whether this process is to keep the list up to date: SIGHUP reloads, and a
            reload thread starts with the first request in each process (under gunicorn,
            with the worker). False loads once and starts nothing, for a test.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    app = Flask(PACKAGE, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]
    log_to_stderr()
    service = _install(app, app, settings or Settings.from_environ(), Places(), start=start)
    app.wsgi_app = HotPath(app.wsgi_app, service, start=start)  # type: ignore[method-assign]
    return app


def init_app(
    app: Flask,
    settings: Settings | None = None,
    *,
    url_prefix: str = Places().prefix,
    start: bool = True,
) -> ConfigService:
    """Add mop-config's routes to an application of yours.

    The settings hold for these routes only: ``TRUSTED_HOSTS`` and ``ENDPOINT_CORS_ORIGINS``
    change no answer of the application's own. ``/health``, ``/ready``, ``/metrics`` and
    ``/openapi.json`` are answered only where the application has no rule of its own for that
    path and method, whichever was added first. What is started in this process ends when the
    application is garbage.

    Args:
        app: The application.
        settings: What to serve, and how; None reads ``app.config["ENDPOINT_…"]`` and, for what
            is not there, the environment.
        url_prefix: What precedes the routes of the configuration, such as ``/endpoints``.
        start: As for ``create_app``.

    Returns:
        The service, also found as ``app.extensions["mop_config"]``.

    Raises:
        MopConfigError: If the application has these routes already.
        SettingsError: If a setting holds a value that cannot be used.
    """
    if EXTENSION in app.extensions:
        raise MopConfigError("init_app: this application has mop-config's routes already")
    prefix = "/".join(("", *filter(None, url_prefix.split("/"))))
    settings = settings or Settings.from_environ(_environ_of(app))
    ours = Blueprint("mop_config", __name__)
    return _install(app, ours, settings, Places(prefix, f"{GUEST_PREFIX}/"), start=start)


def _environ_of(app: Flask) -> dict[str, str]:
    """Return the environment, overridden by the application's configuration."""
    given = {
        name: _as_text(value)
        for name, value in app.config.items()
        if name.startswith(PREFIX) and value is not None
    }
    return {**os.environ, **given}


def _as_text(value: Any) -> str:
    """Write a value of a program as it would stand in the environment."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return ",".join(map(_as_text, value))
    return str(value)


def _install(
    app: Flask, ours: Flask | Blueprint, settings: Settings, places: Places, *, start: bool
) -> ConfigService:
    """Register the routes and their guards on an application or on a blueprint of one."""
    service = ConfigService(settings, app.instance_path)
    service.places = places
    app.extensions[EXTENSION] = service
    if start:
        app.before_request(service.ensure_started)
        weakref.finalize(app, _end, service).atexit = False  # then the service sees to it itself
    _count_requests(ours, service)
    _escape_queries(ours)
    _guard_requests(ours, service)
    _bound_requests(ours)
    _dress_answers(ours, service.settings)
    ours.register_error_handler(HTTPException, _http_error)
    ours.register_error_handler(Exception, _unexpected_error)
    for module in (endpoint_list, operations, qr, reports, targets):
        ours.register_blueprint(module.blueprint, url_prefix=places.prefix)
    ours.add_url_rule("/api/v1/health", "api_health", operations.health)
    # An application's own / stays its own, whenever it is added.
    ours.register_blueprint(dashboard.blueprint, url_prefix=places.home.rstrip("/") or None)
    if isinstance(ours, Blueprint):
        _register_as_guest(app, ours)
    else:
        for name, view in _OPERATIONS.items():
            app.add_url_rule(f"/{name}", name, view)
    service.load(may_wait=start)
    if start:
        reload_on_sighup(service)
    return service


class _Operation(BaseConverter):
    """Matches the names of the operational routes, after every static rule of the application."""

    regex = "|".join(map(re.escape, _OPERATIONS))
    #: Before the application's rules for any word.
    weight = 50


def _register_as_guest(app: Flask, ours: Blueprint) -> None:
    """Add our routes to an application whose own ones come first.

    werkzeug looks at the static rules first, in whichever order they were added, so that one
    dynamic rule gives way to each route of the application's own.
    """
    app.url_map.converters["mop_config_operation"] = _Operation
    ours.add_url_rule("/<mop_config_operation:name>", _OPERATION, lambda name: _OPERATIONS[name]())
    # werkzeug's own redirect would name the host of the request.
    ours.add_url_rule(GUEST_PREFIX, "home", lambda: redirect(f"{GUEST_PREFIX[1:]}/", 308))
    app.register_blueprint(ours)
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{ours.name}."):
            rule.merge_slashes = False


def _end(service: ConfigService) -> None:
    # The garbage collector runs in any thread, also in one that is to be stopped here.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=service.stop, name="mop-config-end", daemon=True).start()


def create_app_or_exit() -> Flask:
    """Build the application from the environment, for an entry point.

    A bad environment ends the process with one line on standard error: a traceback helps
    nobody who mistyped a port.
    """
    try:
        return create_app()
    except SettingsError as error:
        print(f"mop-config: {error}", file=sys.stderr)
        sys.exit(_BOOT_ERROR)


def _count_requests(ours: Flask | Blueprint, service: ConfigService) -> None:
    # Registered before all others, so that it sees the answer as it goes out.
    @ours.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else OTHER
        if str(request.endpoint).rpartition(".")[2] == _OPERATION:
            route = request.path
        service.metrics.request(route, str(response.status_code))
        return response


def _escape_queries(ours: Flask | Blueprint) -> None:
    @ours.before_request
    def escape_query() -> None:
        # werkzeug fails on a query that holds raw bytes which are no UTF-8.
        if not request.query_string.isascii():
            escaped = quote_from_bytes(request.query_string, safe=_ASCII)
            request.query_string = escaped.encode()


def _bound_requests(ours: Flask | Blueprint) -> None:
    @ours.before_request
    def check_form() -> None:
        # werkzeug passes over leading slashes, and redirects others to a URL of the request's Host.
        if "//" in request.environ["PATH_INFO"]:
            raise NotFound
        forget_long_values(request.environ)
        if request.method not in {"GET", "HEAD"} and (request.content_length or 0) > MAX_BODY:
            raise RequestEntityTooLarge(f"a body may have {MAX_BODY} bytes here")


def _guard_requests(ours: Flask | Blueprint, service: ConfigService) -> None:
    settings, authenticator = service.settings, service.authenticator

    @ours.before_request
    def check_host() -> None:
        if settings.trusted_hosts and request.path not in _FOR_ANY_HOST:
            host = request.environ.get("HTTP_HOST", "")
            if not is_trusted(host, settings.trusted_hosts):
                raise BadRequest("this host name is not served here (TRUSTED_HOSTS)")

    @ours.before_request
    def check_token() -> Response | None:
        reads = str(request.endpoint).endswith(reports.VIEW)
        refusal = None
        if authenticator is not None:
            refusal = authenticator.check(request.environ, reads=reads)
        if refusal is None:
            return None
        service.metrics.auth_failure()
        response = problem_response(refusal.status, refusal.detail)
        for challenge in refusal.challenges:
            response.headers.add("WWW-Authenticate", challenge)
        return response

    @ours.after_request
    def check_token_again(response: Response) -> Response:
        # It may have been parked, and its token taken back meanwhile.
        parked = "wait" in request.args and response.status_code < HTTPStatus.BAD_REQUEST
        return (check_token() if parked else None) or response


def _dress_answers(ours: Flask | Blueprint, settings: Settings) -> None:
    @ours.after_request
    def secure(response: Response) -> Response:
        for name, value in SECURITY_HEADERS:
            response.headers.setdefault(name, value)
        return response

    @ours.after_request
    def allow_origins(response: Response) -> Response:
        preflight = (
            request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        )
        origin = request.headers.get("Origin")
        for name, value in cors_headers(settings.cors_origins, origin, preflight=preflight):
            response.headers.add(name, value)
        return response


def _http_error(error: HTTPException) -> Response:
    response = problem_response(error.code or 500, error.description)
    for name, value in error.get_headers():
        if name not in {"Content-Type"}:
            response.headers[name] = value
    return response


def _unexpected_error(error: Exception) -> Any:
    logger.error("%s %s failed: %s", request.method, printable(request.path), describe(error))
    return problem_response(500, "the server failed to answer; its log says why")
