"""The limits of a worker's connections, which uvicorn's protocol lacks."""

from typing import Any

import httptools

from ..web.asgi import AsgiApp

#: Bytes of a request beside its body's limit: the head, and the framing of chunks.
OVERHEAD = 512 * 1024


class RefusedRequestError(Exception):
    """A request that is answered by an error page; its argument is the HTTP status code."""


class ConnectionLimits:
    """The limits of a worker's connections.

    Args:
        worker: The worker, whose configuration is gunicorn's.
        app: The application; an ``AsgiApp`` answers its native routes at once. The access log,
            which must see each request, wraps the application.
    """

    def __init__(self, worker: Any, app: Any) -> None:
        cfg = worker.cfg
        self.worker = worker
        self.line: int = cfg.limit_request_line
        self.fields: int = cfg.limit_request_fields
        self.field: int = cfg.limit_request_field_size
        self.request: int = worker.max_body + OVERHEAD
        self.timeout: float = worker.request_timeout
        self.connections: int = worker.connections
        #: Addresses whose ``X-Forwarded-Proto`` counts; ``*`` means all.
        self.trusted = frozenset(cfg.forwarded_allow_ips)
        #: Fields that mean https, in lower case, with the value that says so.
        self.secure = {n.lower().encode(): v.encode() for n, v in cfg.secure_scheme_headers.items()}
        self.app: AsgiApp | None = app if isinstance(app, AsgiApp) else None


def path_of(target: bytes) -> bytes:
    """Return the path and the query of an absolute target.

    Raises:
        RefusedRequestError: If the target is not that of an HTTP URL.
    """
    url = httptools.parse_url(target)
    if url.schema not in {b"http", b"https"}:
        raise RefusedRequestError(400)
    path: bytes = url.path or b"/"
    return path if url.query is None else path + b"?" + url.query
