"""The layer in front of Flask that answers for the list itself, at the cost of bare WSGI.

Flask's dispatch costs more than the answer. What this layer does not take (other paths,
other methods, hosts that are not trusted, requests that lack a token) goes on to Flask, whose
view gives the same answer through the same ``Responder``.
"""

from collections.abc import Callable, Iterable
from typing import Any

from ..auth.policy import cors_headers, is_trusted
from ..service import ConfigService
from ..serving.responder import Environ

PATH = "/api/v1/config/endpoints"

StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class HotPath:
    """A WSGI application around another one.

    Args:
        app: What answers everything else.
        service: What the list comes from.
        start: Whether the first request in a process starts its reload thread.
    """

    def __init__(self, app: WsgiApp, service: ConfigService, *, start: bool) -> None:
        self.app = app
        self._start = start
        self._service = service
        self._count = service.metrics.request
        self._authenticator = service.authenticator
        self._hosts = service.settings.trusted_hosts
        self._origins = service.settings.cors_origins

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return self.app(environ, start_response)
        if self._hosts and not is_trusted(environ.get("HTTP_HOST", ""), self._hosts):
            return self.app(environ, start_response)
        if self._authenticator is not None and self._authenticator.check(environ) is not None:
            return self.app(environ, start_response)
        if self._start:
            self._service.ensure_started()
        status, headers, body = self._service.responder.respond(environ)
        # It may have been parked, and its token taken back meanwhile.
        parked = bool(environ.get("QUERY_STRING"))
        if (
            parked
            and self._authenticator is not None
            and self._authenticator.check(environ) is not None
        ):
            return self.app(environ, start_response)
        self._count(PATH, status)
        # A copy in any case: what a server does to it must not reach the next answer.
        headers = [*headers]
        if self._origins:
            headers += cors_headers(self._origins, environ.get("HTTP_ORIGIN"), preflight=False)
        start_response(status, headers)
        return [body]
