"""The Flask application: routes onto a runtime, and errors as problem documents."""

import logging
import sys
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge

from ..errors import SettingsError
from .access import cors_headers, is_trusted
from .hotpath import HotPath
from .logs import describe, log_to_stderr, printable
from .metrics import OTHER
from .problem_json import problem
from .runtime import EXTENSION, Runtime
from .security import SECURITY_HEADERS
from .settings import Settings
from .views import (
    config,
    dashboard,
    health,
    keys,
    metrics,
    openapi,
    qr,
    reload,
    status,
    targets,
)

logger = logging.getLogger(__name__)

#: gunicorn's exit code for "do not start this worker again".
_BOOT_ERROR = 3
#: Where the dashboard is in an application that is not ours.
GUEST_PREFIX = "/mop-config"
_FOR_ANY_HOST = frozenset({"/health", "/ready"})
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
    app = Flask("mop_config", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]
    runtime = _install(app, app, settings, start=start)
    app.wsgi_app = HotPath(app.wsgi_app, runtime, start=start)  # type: ignore[method-assign]
    return app


def init_app(app: Flask, settings: Settings | None = None, *, start: bool = True) -> Runtime:
    """Add mop-config's routes to an application of yours.

    The settings hold for these routes only: ``TRUSTED_HOSTS`` and ``ENDPOINT_CORS_ORIGINS``
    change no answer of the application's own.

    Args:
        app: The application.
        settings: As for ``create_app``.
        start: As for ``create_app``.

    Returns:
        The runtime, also found as ``app.extensions["mop_config"]``.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    return _install(app, Blueprint("mop_config", __name__), settings, start=start)


def _install(
    app: Flask, ours: Flask | Blueprint, settings: Settings | None, *, start: bool
) -> Runtime:
    """Put the routes, and what guards them, on an application or on a part of one."""
    log_to_stderr()
    runtime = Runtime(settings or Settings.from_environ(), app.instance_path)
    app.extensions[EXTENSION] = runtime
    if start:
        app.before_request(runtime.ensure_started)
    _count_requests(ours, runtime)
    _guard_requests(ours, runtime)
    _dress_answers(ours, runtime.settings)
    ours.register_error_handler(HTTPException, _http_error)
    ours.register_error_handler(Exception, _unexpected_error)
    for module in (config, health, status, metrics, qr, keys, targets, reload, openapi):
        ours.register_blueprint(module.blueprint)
    # An application's own / stays its own, whenever it is added.
    prefix = GUEST_PREFIX if isinstance(ours, Blueprint) else None
    ours.register_blueprint(dashboard.blueprint, url_prefix=prefix)
    if isinstance(ours, Blueprint):
        app.register_blueprint(ours)
    runtime.load(may_wait=start)
    if start:
        runtime.handle_sighup()
    return runtime


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


def _count_requests(ours: Flask | Blueprint, runtime: Runtime) -> None:
    # Registered before all others, so that it sees the answer as it goes out.
    @ours.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else OTHER
        runtime.metrics.request(route, str(response.status_code))
        return response


def _guard_requests(ours: Flask | Blueprint, runtime: Runtime) -> None:
    settings, keyring = runtime.settings, runtime.keyring

    @ours.before_request
    def check_host() -> None:
        if settings.trusted_hosts and request.path not in _FOR_ANY_HOST:
            host = request.environ.get("HTTP_HOST", "")
            if not is_trusted(host, settings.trusted_hosts):
                raise BadRequest("this host name is not served here (TRUSTED_HOSTS)")

    @ours.before_request
    def check_token() -> Response | None:
        refusal = None if keyring is None else keyring.check(request.environ)
        if refusal is None:
            return None
        runtime.metrics.auth_failure()
        response = problem(refusal.status, refusal.detail)
        for challenge in refusal.challenges:
            response.headers.add("WWW-Authenticate", challenge)
        return response

    @ours.after_request
    def check_token_again(response: Response) -> Response:
        # It may have been parked, and its token taken back meanwhile.
        parked = "wait" in request.args and response.status_code < HTTPStatus.BAD_REQUEST
        return (check_token() if parked else None) or response

    @ours.before_request
    def check_size() -> None:
        if request.method not in {"GET", "HEAD"} and (request.content_length or 0) > MAX_BODY:
            raise RequestEntityTooLarge(f"a body may have {MAX_BODY} bytes here")


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
    response = problem(error.code or 500, error.description)
    for name, value in error.get_headers():
        if name not in {"Content-Type"}:
            response.headers[name] = value
    return response


def _unexpected_error(error: Exception) -> Any:
    logger.error("%s %s failed: %s", request.method, printable(request.path), describe(error))
    return problem(500, "the server failed to answer; its log says why")
