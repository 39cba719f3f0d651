"""Worker classes for the tests: the default one with less patience."""

from mop_config.server.gunicorn.asgi_worker import AsgiWorker


class ImpatientWorker(AsgiWorker):
    """Gives a head, a body and a reader one second instead of thirty."""

    request_timeout = 1.0
