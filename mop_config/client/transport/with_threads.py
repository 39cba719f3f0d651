"""The threaded parts of the transport: queues and hedges; the twin of ``with_asyncio``.

A request over an open connection stays in its caller's thread. Only a request whose answer is late
gets a second thread, which sends the hedge to another endpoint.
"""

import contextlib
import contextvars
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from typing import Any

from .attempt import Exchange, Overtaken

logger = logging.getLogger(__name__)

#: Whether several threads share one HTTP/2 connection: h2's state is not thread-safe.
SHARES_HTTP2 = False


class Turn(threading.Event):
    """A request in the queue of an endpoint's connections; set when the request gets its turn.

    Attributes:
        connection: The connection or place of the request, or None.
    """

    connection: Any = None

    def wait_for(self, seconds: float) -> None:
        """Wait until the event is set, or until the time is over."""
        self.wait(seconds)


def dial_limit() -> contextlib.AbstractContextManager[None]:
    """Return the limit of a client's concurrent dials: none, as each thread dials for itself."""
    return contextlib.nullcontext()


class Aside:
    """A function that runs in a thread beside the requests."""

    def __init__(self, run: Callable[..., None], *args: Any) -> None:
        self._thread = threading.Thread(target=run, args=args, name="mop-config-spare", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether the function has returned."""
        return not self._thread.is_alive()

    def end(self) -> None:
        """Wait until the function has returned; it notices within 0.1 s that the client closes."""
        self._thread.join()


def hedged(exchange: Exchange, send: Callable[[Exchange], None]) -> Exchange:
    """Send a request, and a hedge to another endpoint if the answer is late.

    The first good answer wins, and the other request is cancelled.

    Args:
        exchange: The first request; at its ``hedge_at`` the answer is late.
        send: Sends the request and records the outcome, good or bad.
    """
    hedge = exchange.hedge = Hedge(exchange, send, exchange.hedge_at)
    try:
        send(exchange)
        return hedge.settle() if exchange.hedged_at is not None else exchange
    finally:
        if exchange.hedged_at is not None:
            hedge.abandon()


class Hedge:
    """One request of a hedge; the second request runs in a thread of its own.

    Each thread waits in ``wait`` for its own answer or for the end of the other request, and holds
    one end of a socket pair (bell): the first thread's end becomes readable when the second request
    has an outcome, and the second thread's end when the first end is closed.

    Args:
        exchange: The request.
        send: Sends a request and records the outcome, good or bad.
        late_at: Monotonic seconds at which a second request starts; infinity for none.
        bell: The end of the socket pair, or None before there is a second request.
    """

    def __init__(
        self,
        exchange: Exchange,
        send: Callable[[Exchange], None],
        late_at: float,
        bell: socket.socket | None = None,
    ) -> None:
        self._exchange = exchange
        self._send = send
        self._late_at = late_at
        self._rival: Exchange | None = None
        self._bell = bell
        self._outcome: Future[Exchange] | None = None
        self._overtaken = False

    def wait(self, sock: socket.socket, seconds: float) -> None:
        """Wait until the request's socket is readable; start the second request if that is late.

        Raises:
            TimeoutError: After ``seconds``.
            Overtaken: If the other request has a good answer.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            late = self._late_at - time.monotonic()
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if self._bell is not None:
                poll.register(self._bell, select.POLLIN)
            ready = dict(poll.poll(min(left, max(0.0, late), 1e6) * 1000 + 1))
            if sock.fileno() in ready:
                return
            if self._outcome is not None and self._outcome.done():
                self._overtaken = self._outcome.result().fault is None
                if self._overtaken:
                    raise Overtaken("another endpoint has answered first")
                self._close_bell()
            elif self._late_at <= time.monotonic():
                self._start()
            elif self._outcome is None and self._bell is not None and time.monotonic() < until:
                raise Overtaken("the first endpoint has answered")
        raise TimeoutError("timed out")

    def _start(self) -> None:
        self._late_at = float("inf")
        rival = self._exchange.rival()
        if rival is None:
            return
        try:
            self._bell, other = socket.socketpair()
            rival.hedge = Hedge(rival, self._send, float("inf"), other)
            outcome: Future[Exchange] = Future()
            thread = threading.Thread(
                # Run in the request's context, which holds the current trace span.
                target=contextvars.copy_context().run,
                args=(self._run, rival, outcome, other),
                name="mop-config-hedge",
                daemon=True,
            )
            thread.start()
        except (OSError, RuntimeError, MemoryError) as error:
            # Without descriptors or threads for a hedge, the first request continues alone.
            logger.info("no hedge at %s: %s", rival.member.url, error)
            if rival.hedge is not None:
                other.close()
            self._close_bell()
        else:
            self._rival, self._outcome = rival, outcome

    def _run(self, rival: Exchange, outcome: "Future[Exchange]", bell: socket.socket) -> None:
        self._send(rival)
        try:
            outcome.set_result(rival)
        except InvalidStateError:  # abandoned
            _close(rival)
        bell.close()

    def settle(self) -> Exchange:
        """Return the better of the two requests, now that the first is over."""
        mine, outcome = self._exchange, self._outcome
        if outcome is not None and mine.fault is not None and not self._overtaken:
            wait([outcome], mine.least(None))
        theirs = outcome.result() if outcome is not None and outcome.done() else None
        better = mine.settle(theirs, overtaken=self._overtaken)
        if theirs is not None:
            self._outcome = None
            _close(mine if better is theirs else theirs)
        return better

    def abandon(self) -> None:
        """Cancel the second request, or close its answer, unless the answer is used."""
        if self._rival is not None:
            self._rival.call_off()
        self._close_bell()
        if self._outcome is not None and not self._outcome.cancel():
            _close(self._outcome.result())

    def _close_bell(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None


def _close(exchange: Exchange) -> None:
    if exchange.response is not None:
        exchange.response.close()
