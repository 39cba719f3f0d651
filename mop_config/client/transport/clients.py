"""httpx2's clients, which tell the transport whether an answer is wanted at once and whole."""

from typing import Any

import httpx2

from .rewriting import WHOLE


class Client(httpx2.Client):
    """What ``EndpointManager.client`` gives."""

    def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request; see ``httpx2.Client.send``."""
        request.extensions[WHOLE] = not stream
        return super().send(request, stream=stream, **options)


class AsyncClient(httpx2.AsyncClient):
    """What ``AsyncEndpointManager.client`` gives."""

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request; see ``httpx2.AsyncClient.send``."""
        request.extensions[WHOLE] = not stream
        return await super().send(request, stream=stream, **options)
