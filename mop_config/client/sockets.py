"""Socket.io over the pool, with threads: connections that come back on another endpoint.

The client is python-socketio's own, so handlers, namespaces, ``emit`` and ``call`` are as
ever and stay over a switch. Only connecting is ours: a race of dials finds an endpoint that
is there, and after a break the next one is tried until ``disconnect`` is called.
"""

import ssl
import threading
from typing import Any

import requests
import socketio
from requests.adapters import HTTPAdapter
from socketio.exceptions import ConnectionError as SocketConnectionError

from .base import BaseManager
from .dial import DialError, dial
from .exceptions import NoEndpointAvailable
from .pool import Member
from .socket_search import Lines, Search, where


class _NamedAdapter(HTTPAdapter):
    """Verifies with our context, under the endpoint's own name."""

    def __init__(self, context: ssl.SSLContext, name: str, authority: str) -> None:
        self._tls = {"ssl_context": context, "server_hostname": name, "assert_hostname": name}
        self._authority = authority
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **{**kwargs, **self._tls})

    def cert_verify(self, *args: Any) -> None:
        """Leave the context as it is: it verifies."""

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.headers["Host"] = self._authority
        return super().send(request, *args, **kwargs)


class FailoverSocketClient(socketio.Client):  # type: ignore[misc]
    """A Socket.io client that stays connected to some endpoint of a manager.

    Register handlers as with ``socketio.Client``, then ``connect()``. The ``disconnect``
    handler is called at each break, ``connect`` at each new connection.

    Args:
        manager: Whose socket endpoints to use.
        options: Those of ``socketio.Client``, but for reconnection, which is ours.
    """

    def __init__(self, manager: BaseManager, **options: Any) -> None:
        self._lines = Lines(manager)
        self._arguments: dict[str, Any] = {}
        self._member: Member | None = None
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None
        options.setdefault("handle_sigint", False)
        options.setdefault("request_timeout", manager.policy.health_timeout)
        super().__init__(reconnection=False, **options)

    @property
    def endpoint(self) -> str | None:
        """The URL of the endpoint that the connection goes to, or None."""
        return self._member.url if self._member is not None and self.connected else None

    def connect(self, **arguments: Any) -> None:
        """Connect to the best endpoint that takes us, and stay connected.

        Args:
            arguments: Those of ``socketio.Client.connect``, but for URL, path and retry.

        Raises:
            NoEndpointAvailable: If no endpoint takes us.
        """
        if self._keeper is not None and self._keeper.is_alive():
            raise SocketConnectionError("Already connected")
        self._arguments = arguments
        self._ended.clear()
        self._connect_somewhere()
        self._keeper = threading.Thread(target=self._keep, name="mop-config-socket", daemon=True)
        self._keeper.start()

    def _connect_somewhere(self) -> None:
        lines, search = self._lines, Search(self._lines)
        member = search.first()
        while member is not None:
            race = search.race(member)
            try:
                won = dial(race, lines.dial_options(), lines.resolver)
            except DialError:
                search.lost(race.faults)
                break
            won.connection.close()  # it has shown who is there; the engine makes its own
            search.lost(won.losers)
            try:
                self._connect_to(won.member)
                return
            except (SocketConnectionError, ValueError) as error:
                search.refused(won.member, error)
            member = search.another(lines.core.clock())
        raise search.exhausted()

    def _connect_to(self, member: Member) -> None:
        target, tls = member.target, self._lines.options.tls

        def session() -> requests.Session:
            session = requests.Session()
            if target.server_name is not None:
                adapter = _NamedAdapter(tls, target.server_name, target.authority.decode())
                session.mount("https://", adapter)
            return session

        self.eio.http_factory = session
        self.eio.websocket_extra_options = {"host": target.authority.decode()}
        if target.server_name is not None:
            sslopt = {"context": tls, "server_hostname": target.server_name}
            self.eio.websocket_extra_options["sslopt"] = sslopt
        url, path = where(target, target.host)
        super().connect(url, socketio_path=path, **self._arguments)
        self._member = member
        self._lines.taken(member)

    def _keep(self) -> None:
        """Wait for the connection's end; unless it was meant, find another endpoint."""
        while True:
            self.eio.wait()
            if self._ended.is_set():
                return
            if self._member is not None:
                self._lines.dropped(self._member)
            rounds = 0
            while not self._ended.is_set():
                try:
                    self._connect_somewhere()
                    break
                except NoEndpointAvailable:
                    rounds += 1
                    self._ended.wait(self._lines.pause(rounds))

    def disconnect(self) -> None:
        """Disconnect, and stay so."""
        self._ended.set()
        super().disconnect()
        keeper = self._keeper
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join(self._lines.core.policy.health_timeout)

    def shutdown(self) -> None:
        """Disconnect, and stay so."""
        self.disconnect()

    def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._keeper is not None:
            self._keeper.join()
