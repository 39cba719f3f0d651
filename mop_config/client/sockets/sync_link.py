"""One connection of the synchronous Socket.io client: python-engineio at one endpoint."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from typing import Any

import httpx2
import requests
import websocket
from engineio.base_client import connected_clients
from requests.adapters import HTTPAdapter
from socketio.exceptions import ConnectionError as SocketConnectionError
from socketio.packet import CONNECT, DISCONNECT
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..pool.member import PoolMember
from .search import NamespaceHandshake, engine_url, place_of, with_credentials

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
        self.websocket: websocket.WebSocket | None = None
        self.trust_env = False  # the manager decides about proxies
        if proxy is not None:
            self.proxies = dict.fromkeys(("http", "https"), with_credentials(proxy))
        self.mount("http://", _Adapter(authority, self.sockets, {}))
        # Not ``assert_hostname``: urllib3 would turn the context's own check off for it.
        secure = {"ssl_context": tls, "server_hostname": name}
        self.mount("https://", _Adapter(authority, self.sockets, secure))

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; a redirect is no answer, and would take the login elsewhere."""
        return super().request(*args, **{**kwargs, "allow_redirects": False})

    def break_off(self) -> None:
        """Shut the sockets down, so that a thread that waits for an answer wakes up."""
        upgraded = None if self.websocket is None else self.websocket.sock
        for sock in (*self.sockets, *([upgraded] if upgraded else [])):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _WebSocket(websocket.WebSocket):
    """A WebSocket whose handshake follows no redirect, and can be broken off by its session."""

    def __init__(self, session: _Session, **options: Any) -> None:
        super().__init__(**options)
        session.websocket = self

    def connect(self, url: str, **options: Any) -> None:
        """Connect, as ``websocket.WebSocket`` does."""
        super().connect(url, **{**options, "redirect_limit": 0})  # type: ignore[no-untyped-call]
        response = self.handshake_response
        if response is None or response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            self.shutdown()  # type: ignore[no-untyped-call]
            raise websocket.WebSocketException("the handshake is redirected elsewhere")


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


class SyncLink:
    """One Engine.IO connection to one endpoint, whose messages wait until it is in use.

    Args:
        client: The ``FailoverSocketClient`` whose connection it is.
        member: The endpoint.
    """

    def __init__(self, client: Any, member: PoolMember) -> None:
        target, tls = member.target, client._endpoints.options.tls
        authority, name = target.authority.decode(), target.tls_name
        self.member = member
        self.handshake = NamespaceHandshake(client.connection_namespaces, client.packet_class)
        self.is_retired = False  # whether another connection has taken its place
        self._client = client
        proxy = client._endpoints.proxy_for(member)
        # The proxy looks the host up; without one that has just been done.
        self._host = client._endpoints.address_of(target) if proxy is None else target.host
        self._session = _Session(authority, tls, name, proxy)
        self._changed = threading.Condition()
        self._in_use = self._is_over = False
        self.engine = client._new_engine()
        self.engine.http_factory = lambda: self._session
        extra = {"origin": target.origin, **self.engine.websocket_extra_options}
        extra |= {"host": authority, **_proxy_options(proxy)}
        extra["class_"] = partial(_WebSocket, self._session)
        if name is not None:
            extra["sslopt"] = {"context": tls, "server_hostname": name}
        self.engine.websocket_extra_options = extra
        self.engine.on("connect", self._request_namespaces)
        self.engine.on("message", self._on_message)
        self.engine.on("disconnect", self._on_disconnect)

    def open(self, headers: Any, transports: Any) -> None:
        """Connect, and ask for the namespaces."""
        url, path = engine_url(self.member.target, self._host)
        self.engine.connect(url, dict(headers), transports, path)

    def _request_namespaces(self) -> None:
        client, auth = self._client, self._client.connection_auth
        auth = (auth() if callable(auth) else auth) or {}
        for namespace in client.connection_namespaces:
            self._send(client.packet_class(CONNECT, data=auth, namespace=namespace))

    def _send(self, packet: Any) -> None:
        encoded = packet.encode()
        for part in encoded if isinstance(encoded, list) else [encoded]:
            self.engine.send(part)

    def _on_message(self, data: Any) -> None:
        refused = None
        with self._changed:
            in_use = self._in_use
            if not in_use:
                refused = self.handshake.take(data)
                self._changed.notify_all()
        if in_use:
            self._client._handle_eio_message(data)
        elif refused is not None:
            about = self.handshake.refused[refused]
            about = about if isinstance(about, (tuple, list)) else (about,)
            self._client._trigger_event("connect_error", refused, *about)

    def _on_disconnect(self, reason: str) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._in_use and not self.is_retired:
            self._client._handle_eio_disconnect(reason)

    def wait_for_namespaces(self, seconds: float) -> None:
        """Wait until all namespaces have answered; each may take so long.

        Raises:
            ConnectionError: If one has not, or has refused.
        """
        with self._changed:
            answered, until = 0, time.monotonic() + seconds
            while not (self.handshake.is_done or self._is_over):
                if self.handshake.answered > answered:
                    answered, until = self.handshake.answered, time.monotonic() + seconds
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
        self.handshake.check()

    def use(self) -> list[Any]:
        """Have messages go to the client from now on; give those that came before.

        Raises:
            ConnectionError: If it has ended.
        """
        with self._changed:
            if self._is_over:
                raise SocketConnectionError("the connection was reset at once")
            self._in_use = True
            return self.handshake.early

    def wait(self, seconds: float) -> bool:
        """Wait for its end; give whether it came."""
        task = self.engine.read_loop_task
        if task is not None:
            task.join(seconds)
        return task is None or not task.is_alive()

    def break_off(self) -> None:
        """Shut the sockets down, so that a thread that waits for an answer wakes up."""
        self._session.break_off()

    def close(self, namespaces: Iterable[str] = ()) -> None:
        """End it, whatever state it is in."""
        late = threading.Timer(_GOODBYE, self._session.break_off)
        if self.engine.current_transport == "polling":
            try:
                late.start()
            except (RuntimeError, MemoryError):  # no thread left
                self._session.break_off()
        with contextlib.suppress(Exception):
            for namespace in namespaces:
                self._send(self._client.packet_class(DISCONNECT, namespace=namespace))
            self.engine.disconnect()
        late.cancel()
        self._session.break_off()
        self._session.close()
        if self._session.websocket is not None:
            self._session.websocket.shutdown()  # type: ignore[no-untyped-call]
        with contextlib.suppress(ValueError):
            connected_clients.remove(self.engine)
