"""``Fetcher``: one cancellable GET of an endpoint list, bounded in size and time."""

import time
from collections.abc import Mapping

from ..model.jws import MEDIA_TYPE
from ..net.http import HttpClient, HttpRequest
from ..net.resolver import Resolver
from .lists.update import Fetch, FetchReply
from .pool.policy import Policy
from .transport.options import TransportOptions


class Fetcher:
    """Fetches endpoint lists, from any number of threads.

    Args:
        options: Options of the connections.
        policy: The timeouts and size limits.
        resolver: Looks hosts up.
    """

    def __init__(self, options: TransportOptions, policy: Policy, resolver: Resolver) -> None:
        self._policy = policy
        self._client = HttpClient(
            options.for_dial(policy.connect_timeout),
            resolver,
            connect_within=max(policy.connect_timeout, policy.health_timeout),
            proxy_for=options.proxy_for,
        )

    @property
    def heard_at(self) -> float:
        """Monotonic seconds at which a server last sent bytes, or at which the fetcher began."""
        return self._client.heard_at

    def close(self) -> None:
        """Cancel running and later fetches; takes no lock, so a finalizer may call it."""
        self._client.abort()

    def fetch(self, fetch: Fetch, token: str | None, server_names: Mapping[str, str]) -> FetchReply:
        """Fetch a list. An error is returned as ``FetchReply.problem``.

        Args:
            fetch: The list to request.
            token: Bearer token, sent if ``fetch`` allows it, or None.
            server_names: Name for TLS and ``Host`` by origin, if different from the URL's host.
        """
        headers = {
            "Accept": MEDIA_TYPE if fetch.signed else "application/json",
            "Accept-Encoding": "gzip",
        }
        if fetch.etag is not None:
            headers["If-None-Match"] = fetch.etag
        try:
            reply = self._client.request(
                HttpRequest(
                    fetch.request_url,
                    time.monotonic() + self._policy.total_timeout + fetch.wait,
                    self._policy.max_list_bytes,
                    headers=headers,
                    token=token if fetch.with_token else None,
                    server_names=server_names,
                    https_only=fetch.https_only,
                )
            )
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            return FetchReply(None, problem=str(error) or type(error).__name__)
        return FetchReply(
            reply.status,
            reply.body,
            reply.headers.get("etag"),
            waited="wait" in reply.headers.get("preference-applied", ""),
            retry_after=self._pause(reply.headers.get("retry-after")),
        )

    def _pause(self, retry_after: str | None) -> float:
        # Any status may have the header: a server with many held long polls sends it with a 304.
        return self._policy.busy_for(503, retry_after, time.time()) or 0.0
