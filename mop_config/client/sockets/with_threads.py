"""Threads and requests for the synchronous Socket.io client; the twin of ``with_asyncio``.

Both modules define the same functions, and the same classes with and without ``Async``.
"""

import contextlib
import socket
import threading
from functools import partial
from http import HTTPStatus
from typing import Any

import httpx2
import requests
import websocket
from requests.adapters import HTTPAdapter

from ...net.proxies import address_of
from ..pool.member import PoolMember
from .search import SocketEndpoints, with_credentials

#: Seconds for which ``disconnect`` waits for the background thread.
_PATIENCE = 1.0


def wait_for_task(task: threading.Thread, seconds: float | None) -> bool:
    """Wait for the end of a background task; return whether it ended."""
    task.join(seconds)
    return not task.is_alive()


def is_current(task: threading.Thread | None) -> bool:
    """Return whether the caller runs in this background task."""
    return task is threading.current_thread()


def stop_task(task: threading.Thread) -> None:
    """Wait up to a second for the end of a background thread, which was cancelled before."""
    if task is not threading.current_thread():
        task.join(_PATIENCE)


class EngineSession(requests.Session):
    """The HTTP session of one engine, which sends each request to one endpoint.

    Args:
        engine: The ``engineio`` client that uses the session.
        member: The endpoint.
        endpoints: The socket endpoints.

    Attributes:
        host: Host for the engine's URL: the address to which the search has just connected. With a
            proxy, the host name, which the proxy resolves.
    """

    def __init__(self, engine: Any, member: PoolMember, endpoints: SocketEndpoints) -> None:
        super().__init__()
        target = member.target
        proxy = endpoints.proxy_of(target)
        tls = endpoints.options.tls
        name = target.tls_name
        authority = target.authority.decode()
        self.host = target.host
        if proxy is None and (known := endpoints.addresses_of(target)):
            self.host = f"[{known[0]}]" if ":" in known[0] else known[0]
        self.connections: list[Any] = []  # of urllib3 and websocket-client, with ``sock``
        self.trust_env = False  # the manager chooses the proxy
        self.max_redirects = 0  # a redirect would send the login elsewhere
        if proxy is not None:
            self.proxies = dict.fromkeys(("http", "https"), with_credentials(proxy))
        self.headers["Host"] = authority
        self.mount("http://", _Adapter(self.connections, {}))
        # Not ``assert_hostname``: urllib3 would then disable the context's own check.
        secure = {"ssl_context": tls, "server_hostname": name}
        self.mount("https://", _Adapter(self.connections, secure))
        engine.http, engine.external_http = self, True
        options = {"origin": target.origin, **engine.websocket_extra_options, "host": authority}
        options |= {**_proxy_options(proxy), "class_": partial(_WebSocket, self.connections)}
        if name is not None:
            options["sslopt"] = {"context": tls, "server_hostname": name}
        engine.websocket_extra_options = options

    def break_off(self) -> None:
        """Shut the sockets down, which wakes a thread that waits for an answer."""
        for connection in self.connections:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the session and all of its connections."""
        self.break_off()
        super().close()
        for connection in self.connections:
            if isinstance(connection, _WebSocket):
                connection.shutdown()  # type: ignore[no-untyped-call]


class _WebSocket(websocket.WebSocket):
    """A WebSocket that follows no redirect."""

    def __init__(self, connections: list[Any], **options: Any) -> None:
        super().__init__(**options)
        connections.append(self)

    def connect(self, url: str, **options: Any) -> None:
        """Connect, as ``websocket.WebSocket`` does."""
        super().connect(url, **{**options, "redirect_limit": 0})  # type: ignore[no-untyped-call]
        response = self.handshake_response
        if response is None or response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            self.shutdown()  # type: ignore[no-untyped-call]
            raise websocket.WebSocketException("the handshake is redirected elsewhere")


class _Adapter(HTTPAdapter):
    """Sends the TLS name of one endpoint, and lists the open connections."""

    def __init__(self, connections: list[Any], tls: dict[str, Any]) -> None:
        self._connections = connections
        self._tls = tls
        super().__init__()

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        """Add the TLS context and the endpoint's name to urllib3's options."""
        place, options = super().build_connection_pool_key_attributes(*args, **kwargs)
        return place, {**options, **self._tls}

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return urllib3's pool, which registers each connection that it creates."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)

        def create(**options: Any) -> Any:
            connection = type(pool).ConnectionCls(**options)
            self._connections.append(connection)
            return connection

        pool.ConnectionCls = create
        return pool

    def cert_verify(self, *args: Any) -> None:
        """Do nothing: the TLS context verifies."""


def _proxy_options(proxy: httpx2.Proxy | None) -> dict[str, Any]:
    """Return websocket-client's proxy options, so that websocket-client ignores the environment."""
    if proxy is None:
        # websocket-client reads ``http_no_proxy`` only if a proxy is set.
        return {"http_no_proxy": ["*"], "http_proxy_host": "proxy.invalid", "http_proxy_port": 1}
    host, port = address_of(proxy)
    return {
        "http_no_proxy": ["proxies.invalid"],  # excludes no real host
        "http_proxy_host": host.strip("[]"),
        "http_proxy_port": port,
        "http_proxy_auth": proxy.auth,
        "proxy_type": proxy.url.scheme,
    }
