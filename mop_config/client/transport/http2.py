"""HTTP/2 connections that several threads use at once.

httpcore shares an HTTP/2 connection between threads and calls h2 from each thread, but h2's state
is not thread-safe: two threads can allocate the same stream id, or a frame is lost between two
changes of h2's send buffer. Here a lock per connection makes each call of h2 atomic, and the
opening of a stream as a whole.
"""

import threading
from collections.abc import Iterable
from typing import Any

import h2.connection
import h2.events
import h2.exceptions
import httpcore2

from .attempt import Overtaken


class LockedState(h2.connection.H2Connection):
    """The state of an HTTP/2 connection; a lock makes each call atomic.

    A thread that allocates a stream id keeps the lock until the stream is open: stream ids
    must appear in ascending order, and no answer may close the stream before its window is
    set.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self._lock = threading.RLock()
        self._opening: int | None = None  # the thread that is opening a stream

    def get_next_available_stream_id(self) -> int:
        """Allocate a stream id, and keep the lock until the stream is open."""
        self._lock.acquire()
        self._opening = threading.get_ident()
        try:
            return super().get_next_available_stream_id()
        except h2.exceptions.NoAvailableStreamIDError:
            self.end_opening()
            raise

    def end_opening(self) -> None:
        """Release the lock if this thread holds it for a stream that it is opening."""
        if self._opening == threading.get_ident():
            self._opening = None
            self._lock.release()

    def send_headers(
        self, stream_id: int, headers: Iterable[Any], *args: Any, **options: Any
    ) -> None:
        """Put a HEADERS frame into the send buffer."""
        with self._lock:
            super().send_headers(stream_id, headers, *args, **options)

    def increment_flow_control_window(self, increment: int, stream_id: int | None = None) -> None:
        """Widen the receive window; the widening for a new stream completes its opening."""
        with self._lock:
            super().increment_flow_control_window(increment, stream_id)
        self.end_opening()

    def send_data(self, stream_id: int, data: Any, *args: Any, **options: Any) -> None:
        """Put a DATA frame into the send buffer."""
        with self._lock:
            super().send_data(stream_id, data, *args, **options)

    def end_stream(self, stream_id: int) -> None:
        """Put an empty DATA frame with END_STREAM into the send buffer."""
        with self._lock:
            super().end_stream(stream_id)

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        """Give the peer its flow-control credit back."""
        with self._lock:
            super().acknowledge_received_data(acknowledged_size, stream_id)

    def receive_data(self, data: Any) -> list[h2.events.Event]:
        """Parse received bytes."""
        with self._lock:
            return super().receive_data(data)

    def data_to_send(self, amount: int | None = None) -> bytes:
        """Take the bytes out of the send buffer."""
        with self._lock:
            return super().data_to_send(amount)

    def close_connection(self, *args: Any, **options: Any) -> None:
        """Put a GOAWAY frame into the send buffer."""
        with self._lock:
            super().close_connection(*args, **options)


class SharedHTTP2Connection(httpcore2.HTTP2Connection):
    """httpcore's HTTP/2 connection, safe for requests from several threads."""

    def __init__(
        self,
        origin: httpcore2.Origin,
        stream: httpcore2.NetworkStream,
        keepalive_expiry: float | None = None,
    ) -> None:
        super().__init__(origin, stream, keepalive_expiry)
        self._h2_state: LockedState = LockedState(self.CONFIG)

    def handle_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request, and read the head of its answer."""
        try:
            return super().handle_request(request)
        finally:
            self._h2_state.end_opening()  # an interrupt may have hit the opening

    def _read_incoming_data(self, request: httpcore2.Request) -> list[h2.events.Event]:
        """Read and parse received bytes; a hedge that ends the read loses no bytes of others."""
        try:
            return super()._read_incoming_data(request)
        except Overtaken:
            self._read_exception, self._connection_error = None, False
            raise

    def _response_closed(self, stream_id: int) -> None:
        # Release h2's lock first: a reader takes the state lock before h2's lock.
        self._h2_state.end_opening()
        super()._response_closed(stream_id)
