"""The gunicorn worker that a process is: how many can be parked in it, and how it ends.

What is set here is internal to gunicorn, whose major version is pinned; tests of real workers
hold it fast.
"""

import contextlib
import logging
import os
import resource
import socket
import time
from typing import Any

logger = logging.getLogger(__name__)

#: Long polls that a gevent worker parks, unless told otherwise.
USUAL_WAITERS = 10_000
#: Connections that a gevent worker has beside those of its parked requests.
SPARE_CONNECTIONS = 1000
#: Descriptors that a worker needs beside those of its connections.
OWN_DESCRIPTORS = 100
#: What is asked for beside those of its connections, as far as the hard limit allows.
SPARE_DESCRIPTORS = 2000
#: Seconds for which a worker that ends keeps connections on which nobody asks: a request may be
#: on its way. gunicorn's gthread worker does the same.
LINGER = 2.0


class GunicornWorker:
    """A worker of gunicorn's, of whichever class.

    Args:
        worker: gunicorn's own object; it has not begun to serve.
        wanted: How many requests may be parked in it, or None for as many as is usual.

    Attributes:
        waiters: How many may be.
    """

    def __init__(self, worker: Any, wanted: int | None) -> None:
        self._worker = worker
        self._idle: _IdleConnections | None = None
        self._ends_since: float | None = None
        kind = worker.cfg.worker_class_str
        if kind == "gthread":
            _fit_connections(worker, worker.worker_connections)
            # Two threads are left for whoever does not wait.
            threads = worker.cfg.threads
            usual, most = max(0, threads - 2), max(0, threads - 1)
        elif kind.startswith("gevent"):
            usual = most = _room_for_greenlets(worker, wanted)
            self._idle = _IdleConnections(worker)
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
        """Whether it serves only what has begun; no signal tells of the end of --max-requests."""
        return not self._worker.alive

    def close_idle_connections(self) -> None:
        """Close connections without a request; called repeatedly while the worker ends."""
        now = time.monotonic()
        if self._ends_since is None:
            self._ends_since = now
        if self._idle is not None and now - self._ends_since >= LINGER:
            self._idle.let_go()


def _room_for_greenlets(worker: Any, wanted: int | None) -> int:
    """Give a gevent worker as many connections as it needs and may have.

    Returns:
        How many requests can be parked in it.
    """
    connections = worker.worker_connections
    if connections == worker.cfg.settings["worker_connections"].default:
        waiters = USUAL_WAITERS if wanted is None else wanted
        connections = waiters + SPARE_CONNECTIONS
    connections = _fit_connections(worker, connections)
    return connections - min(SPARE_CONNECTIONS, connections // 2)


def _fit_connections(worker: Any, wanted: int) -> int:
    """Let a worker have so many connections, or as many as the limit of descriptors allows.

    A worker without a descriptor to spare cannot read the endpoint file.
    """
    allowed = _allow_descriptors(wanted + SPARE_DESCRIPTORS) - OWN_DESCRIPTORS
    if allowed < wanted:
        logger.warning(
            "the limit of descriptors leaves room for %d connections, not %d", allowed, wanted
        )
    worker.worker_connections = connections = max(1, min(wanted, allowed))
    return connections


def _allow_descriptors(number: int) -> int:
    """Raise the process's own limit of descriptors as far as needed and allowed; give it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= number:
        return number
    most = number if hard == resource.RLIM_INFINITY else min(number, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


class _IdleConnections:
    """The connections of a gevent worker on which no request is being answered.

    At its end gunicorn waits for all of them until the client goes or asks once more, or the
    graceful timeout is over, and takes no new ones meanwhile.
    """

    def __init__(self, worker: Any) -> None:
        self._clients: dict[Any, None] = {}
        self._busy: dict[Any, None] = {}
        self._handle, self._handle_request = worker.handle, worker.handle_request
        worker.handle, worker.handle_request = self._connected, self._asked

    def _connected(self, listener: Any, client: Any, address: Any) -> None:
        self._clients[client] = None
        try:
            self._handle(listener, client, address)
        finally:
            del self._clients[client]

    def _asked(self, listener_name: Any, request: Any, client: Any, address: Any) -> None:
        self._busy[client] = None
        try:
            self._handle_request(listener_name, request, client, address)
        finally:
            del self._busy[client]

    def let_go(self) -> None:
        """Have each of them read its end."""
        for client in [client for client in self._clients if client not in self._busy]:
            # By a descriptor of our own: a TLS connection would give up its keys first.
            with (
                contextlib.suppress(OSError),
                socket.socket(fileno=os.dup(client.fileno())) as plug,
            ):
                plug.shutdown(socket.SHUT_RD)
