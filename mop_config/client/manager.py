"""``EndpointManager``, the synchronous manager."""

from typing import Self, Unpack

import httpx2

from .base import BaseManager
from .keywords import ClientKeywords
from .pool.member import EndpointState
from .transport._sync.transport import Client, FailoverTransport


class EndpointManager(BaseManager):
    """Holds the endpoints of a service, checks their health, and sends requests to the best one.

    ::

        with EndpointManager(["https://a.example/api/v1", "https://b.example/api/v1"]) as manager:
            users = manager.client().get("/users").json()

    It may be used from any thread. A forked child starts its own checks on first use. See
    ``__init__`` for the arguments.
    """

    def start(self) -> Self:
        """Start health checks and updates in background threads."""
        self._lifecycle.start()
        return self

    def close(self) -> None:
        """Stop the threads within a second. The list stays, and ``start`` may be called again."""
        self._lifecycle.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(
        self,
        *,
        start: bool = True,
        transport: httpx2.BaseTransport | None = None,
        **options: Unpack[ClientKeywords],
    ) -> httpx2.Client:
        """Create an HTTP client whose relative URLs go to the current endpoint.

        Args:
            start: Whether to start a manager that never ran, as ``start`` does: without its
                checks requests fail over, but never go back.
            transport: Sends each attempt, with the endpoint's real URL, instead of connections
                of our own: an ``httpx2.MockTransport`` in a test, for example.
            options: Those of ``httpx2.Client``: ``timeout``, ``headers``,
                ``auth``, ``cookies``, ``params``, ``follow_redirects``, ``max_redirects``,
                ``event_hooks``, ``base_url``, ``default_encoding``, ``mounts``, and how its
                connections are made: ``verify``, ``cert``, ``http1``, ``http2``, ``limits``,
                ``proxy``, ``trust_env``, ``local_address``, ``socket_options``; the manager's
                are the defaults of these. ``timeout`` bounds each attempt; without it,
                ``Policy.total_timeout`` bounds them all.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If certificates would not be verified.
        """
        if start:
            self._start_if_new()
        failover = FailoverTransport(
            self, transport=transport, **self._options_for_transport(options)
        )
        return Client(transport=failover, **self._options_for_client(options))

    def check_endpoint_health(self, endpoint: EndpointState | str) -> bool:
        """Check one endpoint now, and record the result.

        Args:
            endpoint: An endpoint of the list, or its URL.

        Returns:
            Whether the endpoint passed the check.

        Raises:
            KeyError: If the endpoint is not in the list.
        """
        return self._check(endpoint)

    def check_all(self) -> None:
        """Check the best 50 endpoints of each kind, and any in use, and wait for the last."""
        self._lifecycle.tasks.check_all()

    def update_endpoints_from_remote(
        self, fallback_url: str | None = None, token: str | None = None, *, force: bool = False
    ) -> bool:
        """Fetch a new list now, and apply it.

        Args:
            fallback_url: Server to ask first, with or without ``/api/v1``.
            token: Bearer token to send. None: the token of the manager.
            force: Whether to apply a list that may leave nothing that works.

        Returns:
            Whether the list has changed.

        Raises:
            UpdateFailed: If no source gave a list; the current list stays.
            UpdateRefused: If the only lists found would leave nothing that works, or
                (``UpdateUntrusted``) are not to be trusted.
        """
        return self._update(fallback_url, token, force=force)
