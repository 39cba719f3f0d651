"""``AsyncLink``: one Engine.IO connection of a Socket.io client."""

import contextlib
import threading
from collections.abc import Iterable
from typing import Any

from engineio.base_client import connected_clients
from socketio.exceptions import ConnectionError as SocketConnectionError
from socketio.packet import CONNECT, DISCONNECT

from ..pool.member import PoolMember
from .search import NamespaceHandshake, engine_url
from .with_asyncio import AsyncEngineSession, AsyncEvent, value_of, wait_for_task

#: Seconds for the disconnect packets.
_GOODBYE = 0.5


class AsyncLink:
    """One Engine.IO connection to one endpoint, which buffers messages until ``use`` is called.

    Args:
        client: The ``AsyncFailoverSocketClient`` of the connection.
        member: The endpoint.

    Attributes:
        handshake: The namespaces that the server has accepted or refused.
        tasks: Background tasks that handle early messages. The link keeps a reference, because
            asyncio keeps none to its tasks.
        is_retired: Whether another connection has replaced this connection.
    """

    def __init__(self, client: Any, member: PoolMember) -> None:
        self.member = member
        self.handshake = NamespaceHandshake(client.connection_namespaces, client.packet_class)
        self.tasks: list[Any] = []
        self.is_retired = False
        self._client = client
        self._lock = threading.Lock()
        self._changed = AsyncEvent()
        self._in_use = self._is_over = False
        self.engine = client._new_engine()
        self._session = AsyncEngineSession(self.engine, member, client._endpoints)
        self.engine.on("connect", self._request_namespaces)
        self.engine.on("message", self._on_message)
        self.engine.on("disconnect", self._on_disconnect)

    async def open(self, headers: Any, transports: Any) -> None:
        """Connect, and request the namespaces."""
        url, path = engine_url(self.member.target, self._session.host)
        await self.engine.connect(url, dict(headers), transports, path)

    async def _request_namespaces(self) -> None:
        client = self._client
        auth = await value_of(client.connection_auth) or {}
        for namespace in client.connection_namespaces:
            await self._send(client.packet_class(CONNECT, data=auth, namespace=namespace))

    async def _send(self, packet: Any) -> None:
        encoded = packet.encode()
        for part in encoded if isinstance(encoded, list) else [encoded]:
            await self.engine.send(part)

    async def _on_message(self, data: Any) -> None:
        with self._lock:
            in_use = self._in_use
            namespace = None if in_use else self.handshake.receive(data)
        if in_use:
            await self._client._handle_eio_message(data)
        elif namespace is not None:
            self._changed.set()
            if namespace in self.handshake.refused:
                reason = self.handshake.refused[namespace]
                arguments = reason if isinstance(reason, (tuple, list)) else (reason,)
                await self._client._trigger_event("connect_error", namespace, *arguments)

    async def _on_disconnect(self, reason: str) -> None:
        self._is_over = True
        self._changed.set()
        if self._in_use and not self.is_retired:
            await self._client._handle_eio_disconnect(reason)

    async def wait_for_namespaces(self, seconds: float) -> None:
        """Wait until the server has accepted all namespaces, each within ``seconds``.

        Raises:
            ConnectionError: If the server refuses a namespace, or does not answer.
        """
        while not (self.handshake.is_done or self._is_over):
            if not await self._changed.wait(seconds):
                break
            self._changed.clear()
        self.handshake.check()

    def use(self) -> list[Any]:
        """Pass messages to the client from now on; return the messages that arrived before.

        Raises:
            ConnectionError: If the connection has ended.
        """
        with self._lock:
            if self._is_over:
                raise SocketConnectionError("the connection was reset at once")
            self._in_use = True
            return self.handshake.early

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the connection; return whether it ended."""
        task = self.engine.read_loop_task
        return task is None or await wait_for_task(task, seconds)

    def break_off(self) -> None:
        """Wake up a thread that waits for the server's answer."""
        self._session.break_off()
        self._is_over = True
        self._changed.set()

    async def close(self, namespaces: Iterable[str] = ()) -> None:
        """Close the connection in any state."""
        with contextlib.suppress(Exception):
            async with self._session.bounded(_GOODBYE):
                for namespace in namespaces:
                    await self._send(self._client.packet_class(DISCONNECT, namespace=namespace))
                await self.engine.disconnect()
        with contextlib.suppress(Exception):
            await self.engine.disconnect(abort=True)  # if the disconnect packets took too long
        with contextlib.suppress(ValueError):
            connected_clients.remove(self.engine)
        await self._session.close()
