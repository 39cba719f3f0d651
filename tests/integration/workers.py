"""Worker classes for the tests: the default class with shorter time-outs."""

from mop_config.server.gunicorn.worker import AsgiWorker


class ImpatientWorker(AsgiWorker):
    """A worker with time-outs of one second instead of thirty for heads, bodies and readers."""

    request_timeout = 1.0
