"""HTTP/2 endpoints in this process, over TLS, whose frames the test controls."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import h2.config
import h2.connection
import h2.events
import h2.exceptions

#: Handles a request; its arguments are the connection and the stream ID.
Answer = Callable[["Peer", int], None]


class Peer:
    """One connection of a client.

    Attributes:
        protocol: Protocol that ALPN selected, or None.
        h2: State machine of the HTTP/2 connection.
        gone: Whether GOAWAY was sent, after which no request is answered.
        requests: Number of requests received over this connection.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.protocol = sock.selected_alpn_protocol()
        config = h2.config.H2Configuration(client_side=False)
        self.h2 = h2.connection.H2Connection(config)
        self.requests = 0
        self.gone = False

    def answer(self, stream: int, body: bytes = b"ok") -> None:
        """Answer a request with 200."""
        headers = [(":status", "200"), ("content-length", str(len(body)))]
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, body, end_stream=True)

    def go_away(self, last: int) -> None:
        """Send GOAWAY with this last stream ID, and answer no further requests."""
        self.flush()
        self.h2.close_connection(last_stream_id=last)
        self.flush()
        self.gone = True

    def flush(self) -> None:
        """Send the frames that h2 has buffered."""
        if data := self.h2.data_to_send():
            self.sock.sendall(data)


class Streams:
    """A server that speaks HTTP/2 if ALPN selects it, and else answers ``ok`` over HTTP/1.1.

    Args:
        context: TLS server context with the certificate and the ALPN protocols.
        answer: Handles each request over HTTP/2.
    """

    def __init__(self, context: ssl.SSLContext, answer: Answer) -> None:
        self._context = context
        self._answer = answer
        self.peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)

    @property
    def protocols(self) -> list[str | None]:
        """The protocol that ALPN selected for each client, in order."""
        return [peer.protocol for peer in self.peers]

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._spawn(self._serve, sock)

    def _serve(self, raw: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            raw,
            self._context.wrap_socket(raw, server_side=True) as sock,
        ):
            peer = Peer(sock)
            self.peers.append(peer)
            if peer.protocol == "h2":
                self._speak(peer)
                return
            while sock.recv(65536):
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def _speak(self, peer: Peer) -> None:
        peer.h2.initiate_connection()
        peer.flush()
        while data := peer.sock.recv(65536):
            if peer.gone:
                continue
            for event in peer.h2.receive_data(data):
                if isinstance(event, h2.events.RequestReceived) and not peer.gone:
                    peer.requests += 1
                    assert event.stream_id is not None
                    self._answer(peer, event.stream_id)
            peer.flush()

    def close(self) -> None:
        """Close every connection and wait for the threads to end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)
        for peer in self.peers:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


@contextlib.contextmanager
def speaking(context: ssl.SSLContext, answer: Answer = Peer.answer) -> Iterator[Streams]:
    """Run an HTTP/2 server."""
    server = Streams(context, answer)
    try:
        yield server
    finally:
        server.close()
