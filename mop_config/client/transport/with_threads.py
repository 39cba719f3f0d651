"""The threaded parts of the transport: waits and hedges; the twin of ``with_asyncio``.

A request over an open connection stays in its caller's thread. Only a request whose answer is late
gets a second thread, which sends the hedge to another endpoint.
"""

import contextlib
import contextvars
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from typing import Any

import httpcore2

from ...net.connect import GLANCE
from ...net.polling import READABLE, new_poll
from ...net.threads import start_thread
from .attempt import Exchange

logger = logging.getLogger(__name__)

#: Whether several threads share one HTTP/2 connection: h2's state is not thread-safe.
SHARES_HTTP2 = False
#: The twin of ``AsyncEvent``.
Event = threading.Event


def dial_limit() -> contextlib.AbstractContextManager[None]:
    """Return the limit of a client's concurrent dials: none, as each thread dials for itself."""
    return contextlib.nullcontext()


def start_beside(run: Callable[..., None], *args: Any) -> threading.Thread:
    """Run a function in a thread beside the requests."""
    return start_thread(run, "mop-config-spare", *args)


def end_beside(thread: threading.Thread) -> None:
    """Wait until a thread has ended; its dial notices within ``GLANCE`` that the client closes."""
    thread.join()


#: Function that sends the request of an exchange, or closes its answer.
Action = Callable[[Exchange], None]


def hedged(exchange: Exchange, send: Action, close: Action) -> Exchange:
    """Send a request, and a hedge to another endpoint if the answer is late.

    The first request runs in the caller's thread, and the hedge in a thread of its own. The first
    good answer wins, and the other request is called off.

    Args:
        exchange: The first request; at its ``hedge_at`` the answer is late.
        send: Sends the request and records the outcome, good or bad.
        close: Closes the answer of a request, if there is an answer.
    """
    hedge = exchange.hedge = Hedge(exchange, send, close)
    better: Exchange | None = None
    try:
        send(exchange)
        better = exchange if exchange.second is None else hedge.settle()
        return better
    finally:
        if exchange.second is not None:
            hedge.close_unused(better)


class Hedge:
    """The waits of one request, which start a hedge, and which end when the other request has won.

    Args:
        exchange: The request.
        send: Sends a request and records the outcome, good or bad.
        close: Closes the answer of a request, if there is an answer.
    """

    def __init__(self, exchange: Exchange, send: Action, close: Action) -> None:
        self._exchange = exchange
        self._send, self._close = send, close
        self._outcome: Future[Exchange] | None = None
        self._pause = math.inf

    def wait(self, sock: socket.socket, seconds: float) -> None:
        """Wait until the request's socket is readable; start the second request if that is late.

        Raises:
            TimeoutError: After ``seconds``.
            httpcore2.ReadError: If the other request has a good answer.
        """
        exchange, until = self._exchange, time.monotonic() + seconds
        poll = new_poll()
        poll.register(sock, READABLE)
        while True:
            left = min(until, exchange.hedge_at) - time.monotonic()
            if poll.poll(max(0.0, min(left, self._pause)) * 1000 + 1):
                return
            if time.monotonic() >= until:
                raise TimeoutError("timed out")
            self.check()

    def check(self) -> None:
        """Start the second request if the answer is late.

        Raises:
            httpcore2.ReadError: If the other request has a good answer.
        """
        if self._exchange.called_off:
            raise httpcore2.ReadError("the other request of the hedge has its answer")
        if time.monotonic() >= self._exchange.hedge_at:
            self._start()

    def _start(self) -> None:
        self._exchange.hedge_at = math.inf
        second = self._exchange.rival()
        if second is None:
            return
        second.hedge = Hedge(second, self._send, self._close)
        self._pause = second.hedge._pause = GLANCE  # either request may win at any time
        outcome: Future[Exchange] = Future()
        try:
            # Run in the request's context, which holds the current trace span.
            run = contextvars.copy_context().run
            start_thread(run, "mop-config-hedge", self._run, second, outcome)
        except (RuntimeError, MemoryError) as error:
            # Without a thread for the hedge, the first request continues alone.
            logger.info("no hedge at %s: %s", second.member.url, error)
            self._exchange.second = None
        else:
            self._outcome = outcome

    def _run(self, second: Exchange, outcome: "Future[Exchange]") -> None:
        self._send(second)
        try:
            outcome.set_result(second)
        except InvalidStateError:  # the first request is over
            self._close(second)
        else:
            self._exchange.called_off = second.fault is None and self._exchange.fault is None

    def settle(self) -> Exchange:
        """Return the better of the two requests, now that the first is over."""
        first, outcome = self._exchange, self._outcome
        if outcome is not None and first.fault is not None and not first.called_off:
            wait([outcome], first.least(None))
        is_done = outcome is not None and outcome.done()
        # Both may have got their answers at the same moment.
        overtaken = first.called_off and first.response is None
        return first.settle(is_done=is_done, overtaken=overtaken)

    def close_unused(self, better: Exchange | None) -> None:
        """Close the answers that are not used; call off the second request if it still runs."""
        second = self._exchange.second
        if self._outcome is None or second is None:
            return
        if self._outcome.cancel():
            second.called_off = True
            return
        for each in (self._exchange, self._outcome.result()):
            if each is not better:
                self._close(each)
