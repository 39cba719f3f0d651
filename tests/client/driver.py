"""One blocking interface to the sync and the async client, so that a test covers both."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import cache
from typing import Any

import httpx2

from mop_config.client import AsyncEndpointManager, EndpointManager, Policy
from mop_config.client.manager import BaseManager
from mop_config.model.endpoint import Endpoint

KINDS = ("sync", "async")


@cache
def _trust() -> ssl.SSLContext:
    """Return one shared TLS context, because loading the system's CA certificates is slow."""
    return ssl.create_default_context()


class Driver:
    """A sync or async client with its manager; the manager runs no health checks of its own.

    Args:
        kind: ``sync`` or ``async``.
        endpoints: The API endpoints, best first.
        policy: Timeouts and limits of the pool; None for the defaults.
        options: Options for the client; ``of_manager`` is a dict of options for the manager.
    """

    def __init__(
        self,
        kind: str,
        endpoints: Iterable[str | Endpoint],
        policy: Policy | None = None,
        **options: Any,
    ) -> None:
        self.kind = kind
        self._runner = asyncio.Runner() if kind == "async" else None
        options.setdefault("verify", _trust())
        given = {"policy": policy, "verify": options["verify"], "update_interval": 0.0}
        given |= options.pop("of_manager", {})
        self.manager: BaseManager
        self.client: Any
        if kind == "async":
            manager = AsyncEndpointManager(list(endpoints), **given)
            self.manager, self.client = manager, manager.client(start=False, **options)
        else:
            blocking = EndpointManager(list(endpoints), **given)
            self.manager, self.client = blocking, blocking.client(start=False, **options)

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is None:
            self.client.close()
        else:
            self._runner.run(self.client.aclose())
            self._runner.close()

    @contextlib.contextmanager
    def checking(self) -> Iterator[None]:
        """Run the manager's periodic health checks while the block runs."""
        self._now(self.manager.start())
        try:
            yield
        finally:
            self._now(self.manager.close())  # type: ignore[attr-defined]

    def _now(self, step: Any) -> None:
        if self._runner is not None:
            self._runner.run(step)

    def request(self, method: str, url: str, **options: Any) -> httpx2.Response:
        """Send one request and read the whole response."""
        asked = self.client.request(method, url, **options)
        answer: httpx2.Response = asked if self._runner is None else self._runner.run(asked)
        return answer

    def get(self, url: str, **options: Any) -> httpx2.Response:
        """Send a GET."""
        return self.request("GET", url, **options)

    def who(self, url: str = "/who", **options: Any) -> str:
        """Send a GET and return the name of the server that answered."""
        return str(self.get(url, **options).raise_for_status().json()["server"])

    def at_once(self, requests: int, url: str, **options: Any) -> list[Any]:
        """Send GETs concurrently, in threads or tasks; return responses and exceptions."""
        if self._runner is not None:

            async def all_of_them() -> list[Any]:
                asked = [self.client.get(url, **options) for _ in range(requests)]
                return await asyncio.gather(*asked, return_exceptions=True)

            return self._runner.run(all_of_them())
        results: list[Any] = []

        def one() -> None:
            try:
                results.append(self.client.get(url, **options))
            except Exception as error:
                results.append(error)

        threads = [threading.Thread(target=one) for _ in range(requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def body(self, parts: Callable[[], Iterator[bytes]]) -> Any:
        """Make a request body that can be read only once."""
        if self._runner is None:
            return parts()

        async def later() -> AsyncIterator[bytes]:
            for part in parts():
                yield part

        return later()

    def stream(self, url: str, each: Callable[[bytes], bool]) -> None:
        """Pass each part of a streamed response to ``each`` until it returns False."""
        if self._runner is None:
            with self.client.stream("GET", url) as response:
                for part in response.iter_raw():
                    if not each(part):
                        return
            return

        async def read() -> None:
            async with self.client.stream("GET", url) as response:
                async for part in response.aiter_raw():
                    if not each(part):
                        return

        self._runner.run(read())

    def check(self, url: str) -> bool:
        """Probe the health of one endpoint now and return the result."""
        checked: Any = self.manager.check_endpoint_health(url)  # type: ignore[attr-defined]
        return bool(checked if self._runner is None else self._runner.run(checked))

    def update(self, **options: Any) -> bool:
        """Fetch the endpoint list from the sources now; return whether it was updated."""
        manager: Any = self.manager
        updated = manager.update_endpoints_from_remote(**options)
        return bool(updated if self._runner is None else self._runner.run(updated))

    def state(self, url: str) -> str:
        """Return the health state of an endpoint."""
        return next(e.state for e in self.manager.api_endpoints if e.url == url)
