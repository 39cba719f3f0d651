"""Socket.io over the pool, with threads: connections that come back on another endpoint.

The client is python-socketio's own, so handlers, namespaces, ``emit`` and ``call`` are as
ever and stay over a switch. Only connecting is ours: a race of dials finds an endpoint that
is there, and after a break the next one is tried until ``disconnect`` is called.
"""

import contextlib
import socket
import ssl
import threading
from typing import Any, Unpack

import httpx2
import requests
import socketio
from requests.adapters import HTTPAdapter
from socketio.exceptions import ConnectionError as SocketConnectionError
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..connect import connect
from ..faults import Fault
from .base import BaseManager
from .dial import DialError, dial
from .exceptions import NoEndpointAvailable
from .keywords import ConnectKeywords, SocketKeywords, check_keywords
from .member import Member
from .socket_search import (
    STEADY,
    Lines,
    Search,
    check_options,
    place_of,
    where,
    with_credentials,
)

#: Seconds for which ``disconnect`` waits for a search that is under way.
_PATIENCE = 1.0
#: Seconds for the goodbye of a polling client, whose server may hold its last poll for long.
_GOODBYE = 0.5


class _Session(requests.Session):
    """Asks for one endpoint under its own name, and verifies it; can be broken off.

    Args:
        authority: What the ``Host`` header must say.
        tls: The context that verifies.
        name: What the certificate must be for, or None without TLS.
        proxy: The proxy to go by, or None.
    """

    def __init__(
        self, authority: str, tls: ssl.SSLContext, name: str | None, proxy: httpx2.Proxy | None
    ) -> None:
        super().__init__()
        self.sockets: set[socket.socket] = set()
        self.trust_env = False  # the manager decides about proxies
        if proxy is not None:
            self.proxies = dict.fromkeys(("http", "https"), with_credentials(proxy))
        self.mount("http://", _Adapter(authority, self.sockets, {}))
        # Not ``assert_hostname``: urllib3 would turn the context's own check off for it.
        secure = {"ssl_context": tls, "server_hostname": name}
        self.mount("https://", _Adapter(authority, self.sockets, secure))

    def break_off(self) -> None:
        """Make whoever waits for an answer wait no longer."""
        for sock in list(self.sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    def __init__(self, authority: str, sockets: set[socket.socket], tls: dict[str, Any]) -> None:
        self._authority = authority
        self._sockets = sockets
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **{**kwargs, **self._tls})
        self._note_sockets_of(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **{**kwargs, **self._tls})
        self._note_sockets_of(manager)
        return manager

    def _note_sockets_of(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            "http": _noting(HTTPConnectionPool, self._sockets),
            "https": _noting(HTTPSConnectionPool, self._sockets),
        }

    def cert_verify(self, *args: Any) -> None:
        """Leave the context as it is: it verifies."""

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.headers["Host"] = self._authority
        return super().send(request, *args, **kwargs)


def _noting(pool: Any, sockets: set[socket.socket]) -> Any:
    """Make a kind of pool whose connections' sockets are noted."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

        def close(self) -> None:
            sockets.discard(self.sock)
            super().close()

    return type("Pool", (pool,), {"ConnectionCls": Connection})


def _proxy_options(proxy: httpx2.Proxy | None) -> dict[str, Any]:
    """Give websocket-client's options; it would look into the environment on its own."""
    if proxy is None:
        # It heeds the exceptions only where it is given a proxy.
        return {"http_no_proxy": ["*"], "http_proxy_host": "proxy.invalid", "http_proxy_port": 1}
    place = place_of(proxy)
    return {
        "http_no_proxy": ["proxies.invalid"],  # a list, and with nobody in it
        "http_proxy_host": place.host,
        "http_proxy_port": place.port,
        "http_proxy_auth": proxy.auth,
        "proxy_type": proxy.url.scheme,
    }


class FailoverSocketClient(socketio.Client):  # type: ignore[misc]
    """A Socket.io client that stays connected to some endpoint of a manager.

    Register handlers as with ``socketio.Client``, then ``connect()``. The ``disconnect``
    handler is called at each break, ``connect`` at each new connection.

    Args:
        manager: Whose socket endpoints to use.
        options: Those of ``socketio.Client``, but for reconnection, session and
            verification, which are ours.

    Raises:
        ValueError: If one of those is among the options.
    """

    def __init__(self, manager: BaseManager, **given: Unpack[SocketKeywords]) -> None:
        check_keywords(f"{type(self).__name__}()", given, SocketKeywords, ["manager"])
        options: dict[str, Any] = {**given}
        check_options(options)
        self._lines = Lines(manager)
        self._arguments: dict[str, Any] = {}
        self._websocket_options = dict(options.get("websocket_extra_options") or {})
        self._member: Member | None = None
        self._session: _Session | None = None
        self._ended = threading.Event()
        self._leaving = threading.RLock()
        self._keeper: threading.Thread | None = None
        options.setdefault("handle_sigint", False)
        options.setdefault("request_timeout", manager.policy.health_timeout)
        super().__init__(**{**options, "reconnection": False})

    @property
    def endpoint(self) -> str | None:
        """The URL of the endpoint that the connection goes to, or None."""
        up = self._member is not None and self.eio.state == "connected"
        return self._member.url if up and self._member is not None else None

    def connect(self, **arguments: Unpack[ConnectKeywords]) -> None:
        """Connect to the best endpoint that takes us, and stay connected.

        Args:
            arguments: Those of ``socketio.Client.connect``, but for URL, path and retry.

        Raises:
            NoEndpointAvailable: If no endpoint takes us.
        """
        check_keywords(f"{type(self).__name__}.connect()", arguments, ConnectKeywords)
        if self._keeper is not None and self._keeper.is_alive():
            raise SocketConnectionError("Already connected")
        self._arguments = {**arguments}
        self._ended.clear()
        self._connect_somewhere()
        self._keeper = threading.Thread(target=self._keep, name="mop-config-socket", daemon=True)
        self._keeper.start()

    def _connect_somewhere(self) -> None:
        lines, search = self._lines, Search(self._lines)
        member = search.first()
        while member is not None and not self._ended.is_set():
            ready = self._dial(search, member)
            if ready is not None:
                try:
                    self._connect_to(ready)
                    return
                except Exception as error:  # python-engineio raises much more than it says
                    self._leave()
                    search.refused(ready, error)
            member = search.another(lines.core.clock())
        raise search.exhausted()

    def _dial(self, search: Search, member: Member) -> Member | None:
        """Find an endpoint that is there, or whose proxy is; the engine dials it for itself."""
        lines = self._lines
        proxy = lines.proxy_for(member)
        if proxy is not None:
            try:
                connect(place_of(proxy), lines.dial_options(), lines.resolver).close()
            except OSError:
                search.lost([(member, Fault.PROXY)])
                return None
            return member
        race = search.race(member)
        try:
            won = dial(race, lines.dial_options(), lines.resolver)
        except DialError:
            search.lost(race.faults)
            return None
        won.connection.close()
        search.lost(won.losers)
        return won.member

    def _connect_to(self, member: Member) -> None:
        target, tls = member.target, self._lines.options.tls
        authority, name = target.authority.decode(), target.server_name
        proxy = self._lines.proxy_for(member)
        self._session = _Session(authority, tls, name, proxy)
        self.eio.http_factory = lambda: self._session
        extra = {"origin": target.origin, **self._websocket_options, "host": authority}
        extra.update(_proxy_options(proxy))
        if name is not None:
            extra["sslopt"] = {"context": tls, "server_hostname": name}
        self.eio.websocket_extra_options = extra
        self._member = member
        # The proxy looks the host up; without one that has just been done.
        host = self._lines.address_of(target) if proxy is None else target.host
        url, path = where(target, host)
        arguments = {"wait": True, "wait_timeout": self._lines.patience, **self._arguments}
        wait, seconds = arguments.pop("wait"), arguments.pop("wait_timeout")
        super().connect(url, socketio_path=path, wait=False, **arguments)
        if wait:
            self._wait_for_namespaces(seconds)
        self._lines.taken(member)

    def _wait_for_namespaces(self, seconds: float) -> None:
        """Do what ``connect`` would: it would call our own ``disconnect``, which is for good."""
        while self._connect_event.wait(seconds):
            self._connect_event.clear()
            answered = len(self.namespaces) + len(self.failed_namespaces)
            if answered >= len(self.connection_namespaces):
                break
        if set(self.namespaces) != set(self.connection_namespaces):
            refused = ", ".join(self.failed_namespaces) or "no answer"
            raise SocketConnectionError(f"not every namespace was connected: {refused}")

    def _keep(self) -> None:
        """Wait for the connection's end; unless it was meant, find another endpoint."""
        rounds = 0
        while not self._ended.is_set():
            began = self._lines.core.clock()
            self.eio.wait()
            if self._ended.is_set():
                break
            if self._member is not None:
                self._lines.dropped(self._member)
            if self._lines.core.clock() - began >= STEADY:
                rounds = 0
            while not self._ended.wait(self._lines.pause(rounds)):
                rounds += 1
                with contextlib.suppress(NoEndpointAvailable):
                    self._connect_somewhere()
                    break
        self._leave()  # it may have been ended while it was connecting

    def _leave(self) -> None:
        """End the connection, whatever state it is in."""
        with self._leaving:
            session, self._session = self._session, None
            if session is None:
                return
            late = threading.Timer(_GOODBYE, session.break_off)
            if self.eio.current_transport == "polling":
                late.start()
            with contextlib.suppress(Exception):
                super().disconnect()
            late.cancel()
            session.close()
            self.connected = False

    def disconnect(self) -> None:
        """Disconnect, and stay so."""
        self._ended.set()
        if threading.current_thread() is self.eio.read_loop_task:
            return  # a handler of the break itself: there is nothing left to end
        if self.eio.state == "connected":
            self._leave()
        keeper = self._keeper
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join(_PATIENCE)

    def shutdown(self) -> None:
        """Disconnect, and stay so."""
        self.disconnect()

    def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._keeper is not None:
            self._keeper.join()
