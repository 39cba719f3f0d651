"""Guards checks each request before it is answered, in the Flask front and in the ASGI front.

``install`` registers the checks on an application or a blueprint. It also limits what werkzeug
parses, adds the security and CORS headers, and writes errors as problem documents. The functions
that the views share stand here too.
"""

import logging
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.datastructures import Headers as ResponseHeaders
from werkzeug.exceptions import HTTPException, NotFound

from ...errors import AddressError
from ...model.address import normalise_host, split_port
from ...model.printable import printable
from ..auth import OPEN_PATHS
from ..logs import describe
from ..service import EXTENSION, ConfigService
from ..serving.answers import MAX_VALUE, SECURITY_HEADERS, ConditionalAnswer, Headers, problem
from ..status.metrics import OTHER

logger = logging.getLogger(__name__)

#: Limit of a request's body in bytes: no route of ours needs more.
MAX_BODY = 64 * 1024

_FOR_ANY_HOST = frozenset({"/health", "/ready"})
#: The headers of content negotiation and of conditions, by the beginnings of their names.
_NEGOTIATING = ("HTTP_ACCEPT", "HTTP_IF_", "HTTP_RANGE")

_PREFLIGHT: Headers = (
    ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"),
    ("Access-Control-Allow-Headers", "Authorization, If-Modified-Since, If-None-Match"),
    ("Access-Control-Max-Age", "600"),
)
_EXPOSED = ("Access-Control-Expose-Headers", "ETag, Preference-Applied, Retry-After")


def current_service() -> ConfigService:
    """Return the service of the current Flask application."""
    service: ConfigService = current_app.extensions[EXTENSION]
    return service


def as_response(answer: ConditionalAnswer) -> Response:
    """Convert an answer to a Flask response."""
    response = Response(answer.body, answer.status)
    # Set after construction: the constructor would set Content-Length 0 for HEAD's empty body.
    response.headers = ResponseHeaders(answer.headers)
    return response


def native(view: Callable[[ConfigService, dict[str, Any]], ConditionalAnswer]) -> Response:
    """Answer the current request by a view that the ASGI application calls natively."""
    return as_response(view(current_service(), request.environ))


def revalidated(body: str | bytes, content_type: str) -> Response:
    """Return a response that a cache must revalidate by its ETag on each use."""
    response = Response(body, content_type=content_type)
    private = "private, " if current_service().settings.guarded else ""
    response.headers["Cache-Control"] = f"{private}no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response


def refusal(service: ConfigService, environ: dict[str, Any]) -> ConditionalAnswer | None:
    """Return the answer to a request that is refused, or None if it may be answered.

    Args:
        service: The service that the request is for.
        environ: The request in WSGI's form; the name of a good token is noted in it.
    """
    # werkzeug fails on a query with raw bytes that are not UTF-8.
    if not environ.get("QUERY_STRING", "").isascii():
        return problem(400, "the query must be percent-encoded")
    hosts = service.settings.trusted_hosts
    known = not hosts or environ["PATH_INFO"] in _FOR_ANY_HOST
    if not known and not is_trusted(environ.get("HTTP_HOST", ""), hosts):
        return problem(400, "this host name is not served here (TRUSTED_HOSTS)")
    authenticator = service.authenticator
    if authenticator is None or is_preflight(environ) or environ["PATH_INFO"] in OPEN_PATHS:
        return None
    refused = authenticator.authorise(environ)
    if refused is not None:
        service.metrics.auth_failure()
    return refused


def cors(service: ConfigService, environ: dict[str, Any]) -> Headers:
    """Return the CORS headers of the answer to a request (Fetch standard)."""
    allowed = service.settings.cors_origins
    origin = environ.get("HTTP_ORIGIN", "")
    if not allowed:
        return ()
    vary: Headers = (("Vary", "Origin"),)
    if allowed == ("*",):
        vary = ()
        origin = "*"
    elif origin not in allowed:
        return vary
    headers = (("Access-Control-Allow-Origin", origin), _EXPOSED, *vary)
    return headers + _PREFLIGHT if is_preflight(environ) else headers


def is_preflight(environ: dict[str, Any]) -> bool:
    """Whether a request is a CORS preflight, by which a browser asks for leave (Fetch standard)."""
    asked = "HTTP_ORIGIN" in environ and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
    return asked and environ["REQUEST_METHOD"] == "OPTIONS"


def is_trusted(host: str, trusted: tuple[str, ...]) -> bool:
    """Whether requests for a host are answered.

    Args:
        host: The request's ``Host``, with or without a port.
        trusted: Canonical host names; a name with a leading dot includes its subdomains.
    """
    try:
        name = normalise_host(split_port(host)[0], underscores=True)
    except AddressError:
        return False
    return any(
        name == entry.removeprefix(".") or (entry[0] == "." and name.endswith(entry))
        for entry in trusted
    )


def install(ours: Flask | Blueprint, service: ConfigService) -> None:
    """Register the checks, the headers and the error handlers on an application or a blueprint."""

    @ours.before_request
    def check() -> Response | None:
        request.environ.setdefault("PATH_INFO", "")  # an empty variable may be absent (PEP 3333)
        answer = refusal(service, request.environ)
        if answer is not None:
            return as_response(answer)
        # werkzeug ignores doubled leading slashes, and redirects other doubled slashes to a URL
        # with the request's Host.
        if "//" in request.environ["PATH_INFO"]:
            raise NotFound
        # Flask's request object parses these headers itself, without a limit.
        for name in [name for name in request.environ if name.startswith(_NEGOTIATING)]:
            if len(request.environ[name]) > MAX_VALUE:
                del request.environ[name]
        return None

    @ours.after_request
    def finish(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else OTHER
        if "mop_config_operation" in route:  # one rule for all operational routes of a guest
            route = request.path
        service.metrics.request(route, str(response.status_code))
        for name, value in SECURITY_HEADERS:
            response.headers.setdefault(name, value)
        for name, value in cors(service, request.environ):
            response.headers.add(name, value)
        return response

    ours.register_error_handler(HTTPException, _http_error)
    ours.register_error_handler(
        Exception, lambda error: as_response(failure(request.environ, error))
    )


def _http_error(error: HTTPException) -> Response:
    response = as_response(problem(error.code or 500, error.description))
    for name, value in error.get_headers():
        if name != "Content-Type":
            response.headers[name] = value
    return response


def failure(environ: dict[str, Any], error: Exception) -> ConditionalAnswer:
    """Log an unexpected error in one line without a traceback, and return the answer."""
    method, path = environ["REQUEST_METHOD"], printable(environ["PATH_INFO"])
    logger.error("%s %s failed: %s", method, path, describe(error))
    return problem(500, "the server failed to answer; its log says why")
