"""Guards checks each request before it is answered, in the Flask front and in the ASGI front.

``install`` registers the checks on an application or a blueprint. It also limits what werkzeug
parses, adds the security and CORS headers, and writes errors as problem documents.
"""

import logging
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_from_bytes

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from ...model.printable import printable
from ..auth.policy import cors_headers, is_trusted
from ..logs.format import describe
from ..service import ConfigService
from ..serving.conditional import ConditionalAnswer, forget_long_values, problem
from ..serving.snapshot import SECURITY_HEADERS, HeaderFields, Headers
from ..status.metrics import OTHER
from . import as_response, problem_response
from .endpoint_list import REPORT_VIEW

logger = logging.getLogger(__name__)

#: Limit of a request's body in bytes: no route of ours needs more.
MAX_BODY = 64 * 1024
#: Name of the one rule that serves the operational routes in an application that is not ours.
OPERATION = "operation"
FAILED = "the server failed to answer; its log says why"

#: The view of reports in our own application, and in the blueprint of another application.
_REPORTS = frozenset({REPORT_VIEW, f"mop_config.{REPORT_VIEW}"})
_FOR_ANY_HOST = frozenset({"/health", "/ready"})
_ASCII = bytes(range(0x21, 0x7F)).decode()


class Guards:
    """The checks of host and token, and the CORS headers of a service.

    Args:
        service: The service that the requests are for.
    """

    def __init__(self, service: ConfigService) -> None:
        self._metrics = service.metrics
        self._authenticator = service.authenticator
        self._hosts = service.settings.trusted_hosts
        self._origins = service.settings.cors_origins

    def refusal(self, environ: dict[str, Any], *, reads: bool = False) -> ConditionalAnswer | None:
        """Return the answer to a request that is refused, or None if it may be answered.

        Args:
            environ: The request in WSGI's form; the name of a good token is noted in it.
            reads: Whether a read token suffices although the method may change something.
        """
        known = not self._hosts or environ["PATH_INFO"] in _FOR_ANY_HOST
        if known or is_trusted(environ.get("HTTP_HOST", ""), self._hosts):
            return self.token_refusal(environ, reads=reads)
        return problem(400, "this host name is not served here (TRUSTED_HOSTS)")

    def token_refusal(
        self, environ: dict[str, Any], *, reads: bool = False
    ) -> ConditionalAnswer | None:
        """Check only the token, again after a long poll: it may have been revoked meanwhile."""
        if self._authenticator is None:
            return None
        refusal = self._authenticator.check(environ, reads=reads)
        if refusal is None:
            return None
        self._metrics.auth_failure()
        answer = problem(refusal.status, refusal.detail)
        challenges = (("WWW-Authenticate", challenge) for challenge in refusal.challenges)
        return answer._replace(headers=HeaderFields((*answer.headers, *challenges)))

    def cors(self, environ: dict[str, Any]) -> Headers:
        """Return the CORS headers of the answer to a request."""
        if not self._origins:
            return ()
        asked = "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        preflight = asked and environ["REQUEST_METHOD"] == "OPTIONS"
        return cors_headers(self._origins, environ.get("HTTP_ORIGIN"), preflight=preflight)


def install(ours: Flask | Blueprint, service: ConfigService) -> None:
    """Register the checks, the headers and the error handlers on an application or a blueprint."""
    guards = Guards(service)

    # Registered before all others, so that the answer is counted as it goes out.
    @ours.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else OTHER
        if str(request.endpoint).rpartition(".")[2] == OPERATION:
            route = request.path
        service.metrics.request(route, str(response.status_code))
        return response

    @ours.before_request
    def check() -> Response | None:
        # werkzeug fails on a query with raw bytes that are not UTF-8.
        if not request.query_string.isascii():
            request.query_string = quote_from_bytes(request.query_string, safe=_ASCII).encode()
        answer = guards.refusal(request.environ, reads=request.endpoint in _REPORTS)
        if answer is not None:
            return as_response(answer)
        _bound_request()
        return None

    @ours.after_request
    def check_token_again(response: Response) -> Response:
        parked = "wait" in request.args and response.status_code < HTTPStatus.BAD_REQUEST
        answer = guards.token_refusal(request.environ) if parked else None
        return response if answer is None else as_response(answer)

    @ours.after_request
    def dress(response: Response) -> Response:
        for name, value in SECURITY_HEADERS:
            response.headers.setdefault(name, value)
        for name, value in guards.cors(request.environ):
            response.headers.add(name, value)
        return response

    ours.register_error_handler(HTTPException, _http_error)
    ours.register_error_handler(Exception, _unexpected_error)


def _bound_request() -> None:
    # werkzeug ignores doubled leading slashes, and redirects other doubled slashes to a URL with
    # the request's Host.
    if "//" in request.environ["PATH_INFO"]:
        raise NotFound
    forget_long_values(request.environ)
    if request.method not in {"GET", "HEAD"} and (request.content_length or 0) > MAX_BODY:
        raise RequestEntityTooLarge(f"a body may have {MAX_BODY} bytes here")


def _http_error(error: HTTPException) -> Response:
    response = problem_response(error.code or 500, error.description)
    for name, value in error.get_headers():
        if name != "Content-Type":
            response.headers[name] = value
    return response


def _unexpected_error(error: Exception) -> Any:
    logger.error("%s %s failed: %s", request.method, printable(request.path), describe(error))
    return problem_response(500, FAILED)
