"""``AsyncEndpointManager``: the manager that an application creates."""

import asyncio
from typing import Self, Unpack

import httpx2

from .keywords import ClientKeywords
from .manager import BaseManager
from .pool.member import EndpointState
from .transport._async.transport import AsyncClient, AsyncFailoverTransport
from .transport.with_asyncio import call_beside


class AsyncEndpointManager(BaseManager):
    """Checks the health of a service's endpoints, and sends requests to the best endpoint.

    ::

        async with AsyncEndpointManager(["https://a.example", "https://b.example"]) as manager:
            response = await manager.client().get("/users")

    Health checks and updates run in threads. An asynchronous manager sends its signals in the event
    loop. A synchronous manager sends its signals in the thread of the event, and any thread may use
    the manager. A forked child starts its own checks on first use. See ``__init__`` for the
    arguments.
    """

    async def start(self) -> Self:
        """Start health checks and updates in background threads."""
        self._enter_loop()
        self._lifecycle.start()
        return self

    async def close(self) -> None:
        """Stop the threads within a second. The list stays, and ``start`` may be called again."""
        await call_beside(self._lifecycle.stop)
        self._state.loop = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def client(
        self,
        *,
        start: bool = True,
        transport: httpx2.AsyncBaseTransport | None = None,
        **options: Unpack[ClientKeywords],
    ) -> httpx2.AsyncClient:
        """Create an HTTP client whose relative URLs go to the current endpoint.

        Args:
            start: Whether to start the manager if it never ran. Without the manager's health
                checks, requests fail over but never return to a recovered endpoint.
            transport: The transport that sends each attempt to the endpoint's real URL, for
                example an ``httpx2.MockTransport`` in a test. None: the client's own
                connections.
            options: The options of ``httpx2.AsyncClient``: ``timeout``,
                ``headers``, ``auth``, ``cookies``, ``params``, ``follow_redirects``,
                ``max_redirects``, ``event_hooks``, ``base_url``, ``default_encoding``,
                ``mounts``, and the connection options ``verify``, ``cert``, ``http1``,
                ``http2``, ``limits``, ``proxy``, ``trust_env``, ``local_address``,
                ``socket_options``. A connection option that is not given is taken from the
                manager. ``timeout`` bounds each attempt; without ``timeout``,
                ``Policy.total_timeout`` bounds all attempts together.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If certificates would not be verified.
        """
        own, connection = self._client_options(options, start=start)
        failover = AsyncFailoverTransport(self, transport=transport, **connection)
        return AsyncClient(transport=failover, **own)

    async def check_endpoint_health(self, endpoint: EndpointState | str) -> bool:
        """Check one endpoint now, and record the result.

        Args:
            endpoint: An endpoint of the list, or its URL.

        Returns:
            Whether the endpoint passed the check.

        Raises:
            KeyError: If the endpoint is not in the list.
        """
        return await asyncio.to_thread(self._check, endpoint)

    async def check_all(self) -> None:
        """Check the best 50 endpoints of each kind and the endpoints in use; wait for all."""
        await asyncio.to_thread(self._lifecycle.tasks.check_all)

    async def update_endpoints_from_remote(
        self, fallback_url: str | None = None, token: str | None = None, *, force: bool = False
    ) -> bool:
        """Fetch a new list now, and apply it.

        Args:
            fallback_url: Server to request first, with or without ``/api/v1``.
            token: Bearer token to send. None: the token of the manager.
            force: Whether to apply a list that may leave no working endpoint.

        Returns:
            Whether the list has changed.

        Raises:
            UpdateFailed: If no source gave a list; the current list stays.
            UpdateRefused: If every list found would leave no working endpoint, or
                (``UpdateUntrusted``) is not trusted.
        """
        update = self._lifecycle.tasks.updates.update
        return await asyncio.to_thread(update, fallback_url, token, force=force)
