"""GunicornWorker tells the service how many long polls fit into a worker, and when it ends.

The attributes of gunicorn's worker that are set here are internal. gunicorn's major version is
pinned, and tests of real workers check them.
"""

import logging
import resource
from typing import Any

logger = logging.getLogger(__name__)

#: Descriptors that a worker needs beside those of its connections.
OWN_DESCRIPTORS = 100
#: Descriptors requested beside those of the connections, as far as the hard limit allows.
SPARE_DESCRIPTORS = 2000


class GunicornWorker:
    """A gunicorn worker process of any class.

    Args:
        worker: gunicorn's worker object; it has not begun to serve.
        wanted: The setting ``ENDPOINT_MAX_WAITERS``, or None for the default of the class.

    Attributes:
        waiters: How many long polls may be parked in the worker.
    """

    def __init__(self, worker: Any, wanted: int | None) -> None:
        self._worker = worker
        kind = worker.cfg.worker_class_str
        if kind == "gthread":
            _fit_connections(worker, worker.worker_connections)
            # Two threads are kept free for requests that do not wait.
            usual, most = max(0, worker.cfg.threads - 2), max(0, worker.cfg.threads - 1)
        else:
            _allow_descriptors(SPARE_DESCRIPTORS)
            usual = most = 0
        self.waiters = usual if wanted is None else min(wanted, most)
        if wanted is not None and wanted > most:
            logger.warning(
                "ENDPOINT_MAX_WAITERS=%d: a %s worker as this one has room for %d",
                *(wanted, kind, most),
            )

    @property
    def ending(self) -> bool:
        """Whether the worker takes no new connections; ``--max-requests`` sends no signal."""
        return not self._worker.alive


def _fit_connections(worker: Any, wanted: int) -> None:
    """Limit a worker's connections to what the limit of descriptors allows.

    A worker without a spare descriptor could not read the endpoint file.
    """
    allowed = _allow_descriptors(wanted + SPARE_DESCRIPTORS) - OWN_DESCRIPTORS
    if allowed < wanted:
        logger.warning(
            "the limit of descriptors leaves room for %d connections, not %d", allowed, wanted
        )
    worker.worker_connections = max(1, min(wanted, allowed))


def _allow_descriptors(number: int) -> int:
    """Raise the soft limit of descriptors as far as needed and allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= number:
        return number
    most = number if hard == resource.RLIM_INFINITY else min(number, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
