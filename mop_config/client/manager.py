"""``EndpointManager``, the synchronous manager."""

from typing import Self, Unpack

import httpx2

from .base import BaseManager
from .keywords import ClientKeywords
from .pool.member import EndpointState
from .transport._sync.transport import Client, FailoverTransport


class EndpointManager(BaseManager):
    """Checks the health of a service's endpoints, and sends requests to the best endpoint.

    ::

        with EndpointManager(["https://a.example/api/v1", "https://b.example/api/v1"]) as manager:
            users = manager.client().get("/users").json()

    Any thread may use the manager. A forked child starts its own checks on first use. See
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
            start: Whether to start the manager if it never ran. Without the manager's health
                checks, requests fail over but never return to a recovered endpoint.
            transport: The transport that sends each attempt to the endpoint's real URL, for
                example an ``httpx2.MockTransport`` in a test. None: the client's own
                connections.
            options: The options of ``httpx2.Client``: ``timeout``, ``headers``,
                ``auth``, ``cookies``, ``params``, ``follow_redirects``, ``max_redirects``,
                ``event_hooks``, ``base_url``, ``default_encoding``, ``mounts``, and the
                connection options ``verify``, ``cert``, ``http1``, ``http2``, ``limits``,
                ``proxy``, ``trust_env``, ``local_address``, ``socket_options``. A connection
                option that is not given is taken from the manager. ``timeout`` bounds each
                attempt; without ``timeout``, ``Policy.total_timeout`` bounds all attempts
                together.

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
        """Check the best 50 endpoints of each kind and the endpoints in use; wait for all."""
        self._lifecycle.tasks.check_all()

    def update_endpoints_from_remote(
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
        return self._update(fallback_url, token, force=force)
