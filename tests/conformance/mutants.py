"""Clients with one fault each: ``python -m tests.conformance.mutants NAME``.

Each class is the Python client behind the line protocol, and breaks one rule of the protocol
through the public API, or does not behave as a client at all.
"""

import asyncio
import sys
import time
from dataclasses import replace
from typing import Any

from conformance.python_client import Adapter, Answer, serve
from mop_config.client import Policy


class RepeatsPosts(Adapter):
    """Adds an Idempotency-Key to each request, so that POSTs are repeated."""

    async def request(self, message: Answer) -> Answer:
        headers = {**message.get("headers", {}), "Idempotency-Key": "mine"}
        return await super().request({**message, "headers": headers})


class IgnoresRetryAfter(Adapter):
    """Ignores Retry-After, and asks a busy endpoint again at once."""

    def policy(self, figures: dict[str, Any]) -> Policy:
        return replace(super().policy(figures), max_retry_after=0.0)


class TakesOlder(Adapter):
    """Uses a new cache for each update, so that older signed lists are accepted."""

    async def init(self, message: Answer) -> Answer:
        self.configured, self.updates = message, 0
        return await super().init(message)

    async def update(self, message: Answer) -> Answer:
        self.updates += 1
        cache = f"{self.configured['cache']}.{self.updates}"
        await super().init({**self.configured, "cache": cache})
        return await super().update(message)


class NeverFailsBack(Adapter):
    """Never returns from the backup to the primary."""

    def policy(self, figures: dict[str, Any]) -> Policy:
        return replace(super().policy(figures), min_dwell=1e6)


class ChecksNothing(Adapter):
    """Sends no health check, manually or in the background."""

    async def init(self, message: Answer) -> Answer:
        return await super().init({**message, "checks": False})

    async def check(self, url: str) -> None:
        pass


class LeavesAt500(Adapter):
    """Treats the application's status 500 as a failure of the endpoint."""

    def policy(self, figures: dict[str, Any]) -> Policy:
        policy = super().policy(figures)
        return replace(policy, bad_status=policy.bad_status | {500})


class TakesUnsigned(Adapter):
    """Accepts lists without verifying their signatures."""

    async def init(self, message: Answer) -> Answer:
        return await super().init({k: v for k, v in message.items() if k != "trusted_keys"})


class Hangs(Adapter):
    """Never answers a request, but keeps running."""

    async def request(self, message: Answer) -> Answer:
        time.sleep(600)
        return {}


class Dies(Adapter):
    """Exits at the first POST."""

    async def request(self, message: Answer) -> Answer:
        if message["method"] == "POST":
            print("out of luck", file=sys.stderr)
            sys.exit(3)
        return await super().request(message)


class PrintsRubbish(Adapter):
    """Prints a line that is no JSON before the answer to a POST."""

    async def request(self, message: Answer) -> Answer:
        if message["method"] == "POST":
            print("-> here", flush=True)
        return await super().request(message)


MUTANTS: dict[str, type[Adapter]] = {
    each.__name__: each
    for each in (
        *(RepeatsPosts, IgnoresRetryAfter, TakesOlder, NeverFailsBack, ChecksNothing),
        *(LeavesAt500, TakesUnsigned, Hangs, Dies, PrintsRubbish),
    )
}

if __name__ == "__main__":
    asyncio.run(serve(MUTANTS[sys.argv[1]]()))
