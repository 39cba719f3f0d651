"""The Flask application: the routes of a service, their guards, and errors as problem documents."""

import contextlib
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, redirect
from werkzeug.routing import BaseConverter

from ...errors import MopConfigError, SettingsError
from ..logs import log_to_stderr
from ..service import EXTENSION, ConfigService, Places
from ..settings import PREFIX, Settings
from . import PACKAGE, dashboard, guards, views

#: gunicorn's exit code for "do not start this worker again".
_BOOT_ERROR = 3
_HOOKS = "mop_config.hooks"
#: Path of the dashboard in an application that is not ours.
GUEST_PREFIX = "/mop-config"
_OPERATIONS: dict[str, Callable[[], Response]] = {
    "health": lambda: guards.native(views.health),
    "ready": lambda: guards.native(views.ready),
    "metrics": views.metrics,
    "openapi.json": views.openapi,
}


def create_app(settings: Settings | None = None, *, start: bool = True) -> Flask:
    """Build the Flask application.

    No content of the endpoint file or the state folder makes this function raise.

    Args:
        settings: The settings of the application; None reads the environment.
        start: Whether this process keeps the list up to date: a reload thread starts with the
            first request in each process (under gunicorn, with the worker). False loads once
            and starts nothing, for a test.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    app = Flask(PACKAGE, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = guards.MAX_BODY
    log_to_stderr()
    _install(app, app, settings or Settings.from_environ(), Places(), start=start)
    app.extensions[_HOOKS] = _hooks(app)
    return app


def is_untouched(app: Any) -> bool:
    """Return whether an application is exactly what ``create_app`` returned.

    A hook, a middleware or another view means that every request must pass through Flask.
    """
    plain = type(app) is Flask and "wsgi_app" not in vars(app)
    return plain and app.extensions.get(_HOOKS) == _hooks(app)


def _hooks(app: Flask) -> list[Any]:
    """Return a copy of the functions that Flask calls for the requests of an application."""
    groups = (
        app.before_request_funcs,
        app.after_request_funcs,
        app.teardown_request_funcs,
        app.url_value_preprocessors,
    )
    return [*(list(group.get(None, ())) for group in groups), dict(app.view_functions)]


def init_app(
    app: Flask,
    settings: Settings | None = None,
    *,
    url_prefix: str = Places().prefix,
    start: bool = True,
) -> ConfigService:
    """Add mop-config's routes to an application of yours.

    The settings hold for these routes only: ``TRUSTED_HOSTS`` and ``ENDPOINT_CORS_ORIGINS``
    change no answer of the application's own routes. ``/health``, ``/ready``, ``/metrics`` and
    ``/openapi.json`` are answered only if the application has no rule of its own for that path
    and method, whichever was added first. The threads that this function starts end when the
    application is garbage-collected.

    Args:
        app: The application.
        settings: The settings of the routes; None reads ``app.config["ENDPOINT_…"]``, and the
            environment for each variable that is not set there.
        url_prefix: Path in front of the routes of the configuration, such as ``/endpoints``.
        start: As for ``create_app``.

    Returns:
        The service, also found as ``app.extensions["mop_config"]``.

    Raises:
        MopConfigError: If the application has these routes already.
        SettingsError: If a setting has a value that cannot be used.
    """
    if EXTENSION in app.extensions:
        raise MopConfigError("init_app: this application has mop-config's routes already")
    prefix = "/".join(("", *filter(None, url_prefix.split("/"))))
    settings = settings or Settings.from_environ(_environ_of(app))
    ours = Blueprint("mop_config", __name__)
    return _install(app, ours, settings, Places(prefix, f"{GUEST_PREFIX}/"), start=start)


def _environ_of(app: Flask) -> dict[str, str]:
    """Return the environment, overridden by the application's configuration."""
    config = app.config.items()
    ours = {name: str(v) for name, v in config if name.startswith(PREFIX) and v is not None}
    return os.environ | ours


def _install(
    app: Flask, ours: Flask | Blueprint, settings: Settings, places: Places, *, start: bool
) -> ConfigService:
    """Register the routes and their guards on an application, or on its blueprint."""
    service = ConfigService(settings, app.instance_path)
    service.places = places
    app.extensions[EXTENSION] = service
    if start:
        app.before_request(service.ensure_started)
        weakref.finalize(app, _end, service).atexit = False  # the service has an exit handler
    guards.install(ours, service)
    ours.register_blueprint(views.blueprint, url_prefix=places.prefix)
    ours.add_url_rule("/api/v1/health", "api_health", _OPERATIONS["health"])
    # In an application that is not ours, the route / is left to the application.
    ours.register_blueprint(dashboard.blueprint, url_prefix=places.home.rstrip("/") or None)
    if isinstance(ours, Blueprint):
        _register_as_guest(app, ours)
    else:
        for name, view in _OPERATIONS.items():
            app.add_url_rule(f"/{name}", name, view)
    service.load()
    return service


class _Operation(BaseConverter):
    """Matches the names of the operational routes, after every static rule of the application."""

    regex = "|".join(map(re.escape, _OPERATIONS))
    #: Sorts this rule before the application's rules that match any word.
    weight = 50


def _register_as_guest(app: Flask, ours: Blueprint) -> None:
    """Add our routes to an application so that its own routes have precedence.

    werkzeug tries static rules first, in whichever order they were added, so that one dynamic rule
    for all operational routes gives way to each static route of the application.
    """
    app.url_map.converters["mop_config_operation"] = _Operation
    ours.add_url_rule("/<mop_config_operation:name>", "operation", lambda name: _OPERATIONS[name]())
    # werkzeug's own redirect would contain the host of the request.
    ours.add_url_rule(GUEST_PREFIX, "home", lambda: redirect(f"{GUEST_PREFIX[1:]}/", 308))
    app.register_blueprint(ours)
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{ours.name}."):
            rule.merge_slashes = False


def _end(service: ConfigService) -> None:
    # The garbage collector may run in a thread that ``stop`` would join.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=service.stop, name="mop-config-end", daemon=True).start()


def create_app_or_exit() -> Flask:
    """Build the application from the environment, for an entry point.

    A bad environment ends the process with one line on standard error, since a traceback does not
    help an operator who mistyped a port.
    """
    try:
        return create_app()
    except SettingsError as error:
        print(f"mop-config: {error}", file=sys.stderr)
        sys.exit(_BOOT_ERROR)
