"""The Python client behind the line protocol: ``python -m conformance.python_client sync|async``.

It uses the public API of ``mop_config.client``, and the package's decoder of lists.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2

from mop_config.client import (
    AsyncEndpointManager,
    EndpointManager,
    NoEndpointAvailable,
    Policy,
    UpdateFailed,
    UpdateRefused,
    UpdateUntrusted,
)
from mop_config.errors import MopConfigError, PayloadError
from mop_config.model.endpoint import config_of

Answer = dict[str, Any]
#: The protocol's words for failures that have one word each.
_WORDS = {
    NoEndpointAvailable: "unavailable",
    UpdateUntrusted: "untrusted",
    UpdateRefused: "refused",
    PayloadError: "invalid",
}


class Adapter:
    """Maps the operations of the line protocol to the synchronous client, one method each.

    Attributes:
        manager_class: The class of the manager.
    """

    manager_class: Callable[..., Any] = EndpointManager

    def __init__(self) -> None:
        self.manager: Any = None
        self.client: Any = None

    async def init(self, message: Answer) -> Answer:
        """Create the manager and its client."""
        await self.close({})
        self.manager = self.manager_class(
            config_of(message),
            cache_path=Path(message["cache"]),
            policy=self.policy(message["policy"]),
            config_urls=message.get("config_urls", ()),
            token=message.get("token"),
            verify=message["authority"],
            trust_env=False,
            update_interval=message.get("update_interval", 0),
            watch=message.get("watch", False),
            trusted_keys=message.get("trusted_keys"),
        )
        if message.get("checks"):
            await _settled(self.manager.start())
        self.client = self.manager.client(start=False)
        return {"profile": "full", "protocol": "1.0"}

    def policy(self, figures: dict[str, Any]) -> Policy:
        """Return the policy with the figures of ``init``."""
        return Policy(**figures)

    async def request(self, message: Answer) -> Answer:
        """Send one request of the application."""
        headers, body = message.get("headers", {}), message.get("body")
        if body is not None and message.get("once"):
            body = self.stream(body.encode())
        timeout = message.get("timeout")
        options = {} if timeout is None else {"timeout": timeout}
        sent = self.client.request(
            message["method"], message["path"], headers=headers, content=body, **options
        )
        response = await _settled(sent)
        answered_by = response.extensions["endpoint"]
        return {"status": response.status_code, "endpoint": answered_by, "body": response.text}

    def stream(self, body: bytes) -> Any:
        """Return a body that can be read only once."""
        return (part for part in (body,))

    async def update(self, message: Answer) -> Answer:
        """Update the list from a server."""
        changed = self.manager.update_endpoints_from_remote(
            message.get("fallback"), message.get("token"), force=message.get("force", False)
        )
        return {"changed": await _settled(changed)}

    async def state(self, message: Answer) -> Answer:
        """Check the named endpoints, and report the state of all endpoints."""
        for url in message.get("check", ()):
            await self.check(url)
        manager = self.manager
        return {
            "api_endpoints": [_reported(each) for each in manager.api_endpoints],
            "socketio_endpoints": [_reported(each) for each in manager.socket_endpoints],
            "current": manager.get_current_api_url(),
            "stale": manager.list_source.stale,
            "offline": manager.is_offline,
            "room_id": manager.room_id,
        }

    async def check(self, url: str) -> None:
        """Run one health check of an endpoint."""
        await _settled(self.manager.check_endpoint_health(url))

    async def qr(self, message: Answer) -> Answer:
        """Apply the text of a QR code."""
        flags = {name: message.get(name, False) for name in ("replace", "trust")}
        data = self.manager.apply_qr(message["text"], **flags)
        return {"room_id": data.room_id}

    async def close(self, message: Answer) -> Answer:
        """Close the client and its manager."""
        client, self.client = self.client, None
        if client is not None:
            await _settled(client.aclose() if hasattr(client, "aclose") else client.close())
            await _settled(self.manager.close())
        return {}


class AsyncAdapter(Adapter):
    """Maps the operations of the line protocol to the asynchronous client."""

    manager_class = AsyncEndpointManager

    def stream(self, body: bytes) -> Any:
        """Return a body that can be read only once."""

        async def parts() -> AsyncIterator[bytes]:
            yield body

        return parts()


async def _settled(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _reported(endpoint: Any) -> Answer:
    return {
        "url": endpoint.url,
        "priority": endpoint.priority,
        "server_name": endpoint.server_name,
        "state": endpoint.state,
        "usable": endpoint.is_healthy,
        "failures": endpoint.failure_count,
    }


def _word(error: Exception) -> str:
    """Return the protocol's word for the failure of an operation."""
    if isinstance(error, UpdateFailed):
        return error.cause
    return next((word for kind, word in _WORDS.items() if isinstance(error, kind)), "failed")


async def serve(adapter: Adapter) -> None:
    """Answer each line of standard input with one line, until standard input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        message = json.loads(line)
        operation: Callable[[Answer], Awaitable[Answer]] = getattr(adapter, message["op"])
        try:
            answer = await operation(message)
        except (MopConfigError, httpx2.HTTPError) as error:
            answer = {"error": _word(error), "detail": str(error) or repr(error)}
            if isinstance(error, UpdateUntrusted):
                answer["code"] = error.code
        print(json.dumps({"id": message["id"], **answer}), flush=True)
    await adapter.close({})


if __name__ == "__main__":
    asyncio.run(serve(AsyncAdapter() if "async" in sys.argv[1:] else Adapter()))
