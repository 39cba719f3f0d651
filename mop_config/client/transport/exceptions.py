"""The client's exception that is httpx2's as well."""

from typing import Any

import httpx2

from ...errors import MopConfigError
from ..pool.failover import FailedAttempt


class NoEndpointAvailable(httpx2.TransportError, MopConfigError):  # noqa: N818 - the contract's
    """No endpoint could be reached, or there is none.

    Attributes:
        attempts: What was tried, in order: ``url``, ``fault`` and ``seconds`` of each.
    """

    def __init__(
        self, attempts: tuple[FailedAttempt, ...] = (), request: httpx2.Request | None = None
    ) -> None:
        tried = "; ".join(f"{t.url}: {t.fault} after {t.seconds:.3f} s" for t in attempts)
        super().__init__(
            f"no endpoint is available: {tried or 'the list is empty'}", request=request
        )
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild it from its attempts: ``args`` holds the message, which is made of them."""
        return type(self), (self.attempts,), self.__dict__
