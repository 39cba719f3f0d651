"""``AsyncLink``: one connection of a Socket.io client to one endpoint."""

import contextlib
import threading
from typing import Any

import socketio
from engineio.base_client import connected_clients
from socketio.exceptions import ConnectionRefusedError as LoginRefused

from ..pool.member import PoolMember
from .search import engine_url
from .with_asyncio import AsyncEngineSession, AsyncEvent, wait_for_task

#: Seconds for the disconnect packets.
_GOODBYE = 0.5


class AsyncLink(socketio.AsyncClient):  # type: ignore[misc]
    """A connection to one endpoint: a python-socketio client that calls the handlers of another.

    The handlers are called once the connection is in use. Until then, ``connect`` events are
    collected, and other events wait.

    Args:
        client: The ``AsyncFailoverSocketClient`` with the handlers.
        member: The endpoint.

    Attributes:
        is_retired: Whether another connection has replaced this connection.
    """

    def __init__(self, client: Any, member: PoolMember) -> None:
        super().__init__(**client.link_options)
        self.eio: Any
        self.namespaces: dict[str, Any]
        self.failed_namespaces: list[str]
        self.handlers, self.namespace_handlers = client.handlers, client.namespace_handlers
        self.member = member
        self.is_retired = False
        self._client = client
        self._lock = threading.Lock()
        self._in_use = False
        self._joined: list[str] = []
        self._released = AsyncEvent()
        self._refusal: LoginRefused | None = None
        self._session = AsyncEngineSession(self.eio, member, client._endpoints)

    async def open(self, *, headers: Any = None, **arguments: Any) -> None:
        """Connect to the endpoint, and join the namespaces.

        Raises:
            ConnectionRefusedError: If the application refuses a namespace, with its reason.
            Exception: One of many types, with a message.
        """
        url, path = engine_url(self.member.target, self._session.host)
        try:
            headers = dict(await self._get_real_value(headers) or {})
            await self.connect(url, headers=headers, socketio_path=path, **arguments)
        except BaseException as error:
            await self.close()
            if self._refusal is not None:
                raise self._refusal from error
            raise

    def use(self) -> list[str]:
        """Call the handlers from now on; return the namespaces that were joined before."""
        with self._lock:
            self._in_use = True
            return self._joined

    def release(self) -> None:
        """Let the events go on that have waited for the ``connect`` handlers."""
        self._released.set()

    async def _trigger_event(self, event: str, namespace: str, *arguments: Any) -> Any:
        if event == "connect_error":
            if self.eio.state != "connected":
                return None  # the search reports that the endpoint cannot be reached
            self._refusal = _refusal_of(namespace, arguments)
        elif event == "connect":
            with self._lock:
                if not self._in_use:
                    self._joined.append(namespace)
                    return None
        else:
            await self._released.wait()
            if not self._in_use:
                return None
        return await self._client._trigger_event(event, namespace, *arguments)

    async def _handle_eio_disconnect(self, reason: str) -> None:
        if not self.connected:  # ``connect`` may still wait for the namespaces
            self.namespaces, self.failed_namespaces = {}, list(self.connection_namespaces)
            self._connect_event.set()
        elif not self.is_retired:
            await super()._handle_eio_disconnect(reason)
        self._client.forget(self)

    async def wait_for_end(self, seconds: float) -> bool:
        """Wait for the end of the connection; return whether it ended."""
        task = self.eio.read_loop_task
        return task is None or await wait_for_task(task, seconds)

    def break_off(self) -> None:
        """Wake up a thread that waits for the server's answer."""
        self._session.break_off()

    async def close(self) -> None:
        """Close the connection in any state."""
        self.release()
        with contextlib.suppress(Exception):
            async with self._session.bounded(_GOODBYE):
                await self.disconnect()
        with contextlib.suppress(Exception):
            await self.eio.disconnect(abort=True)  # if the disconnect packets took too long
        with contextlib.suppress(ValueError):
            connected_clients.remove(self.eio)
        await self._session.close()


def _refusal_of(namespace: str, arguments: tuple[Any, ...]) -> LoginRefused:
    """Return the error for a namespace that the application refuses, with its reason."""
    data = arguments[0] if len(arguments) == 1 else arguments
    reason = data.get("message") if isinstance(data, dict) else data
    error = LoginRefused(f"{namespace} is refused: {reason}")
    error.error_args = data
    return error
