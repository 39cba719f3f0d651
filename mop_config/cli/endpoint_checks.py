"""Health checks of a whole list, for ``probe`` and ``check --probe``."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from ..health.jobs import Job, check_each
from ..health.probe import HealthRequest, Prober, ProbeResult
from ..model.endpoint import Endpoint, EndpointConfig
from ..server.settings import Settings

#: Maximum number of concurrent checks.
_PARALLEL = 64


class EndpointCheck(NamedTuple):
    """The health check of one endpoint, with its result."""

    kind: str
    endpoint: Endpoint
    result: ProbeResult

    @property
    def healthy(self) -> bool:
        """Whether the check found no fault."""
        return self.result.fault is None

    @property
    def days(self) -> int | None:
        """Whole days until the certificate expires, or None without a certificate."""
        ends = self.result.certificate_expires
        return None if ends is None else (ends - datetime.now(UTC)).days

    def as_dict(self) -> dict[str, object]:
        """Return the check as an object for ``--json``."""
        result = self.result
        ends = result.certificate_expires
        return {
            "kind": self.kind,
            "url": self.endpoint.url,
            "priority": self.endpoint.priority,
            "healthy": self.healthy,
            "fault": result.fault,
            "detail": result.detail,
            "seconds": round(result.seconds, 6),
            "certificate_expires": ends and f"{ends:%Y-%m-%dT%H:%M:%SZ}",
            "certificate_days": self.days,
            "name_matches": result.name_matches,
        }


def check_endpoints(
    config: EndpointConfig, timeout: float, done: Callable[[], None] = lambda: None
) -> list[EndpointCheck]:
    """Check the health of every endpoint of a list, with the checks of the server's monitor.

    Args:
        config: The list.
        timeout: Limit of one check, in seconds.
        done: Called after each check, in any thread.

    Returns:
        The checks, in the order of the list.
    """
    jobs: list[Job] = [(kind, e, None) for kind, listed in config.kinds().items() for e in listed]
    settings = Settings.from_environ()
    request = HealthRequest.containing(settings.health_path, settings.health_contains)
    prober = Prober(ssl.create_default_context(), timeout, request=request)
    results: dict[Job, ProbeResult] = {}

    def report(job: Job, result: ProbeResult) -> None:
        results[job] = result
        done()

    try:
        for thread in check_each(prober, jobs, report, _PARALLEL):
            thread.join()
    except BaseException:  # interrupted: don't wait for the other checks
        prober.abort()
        raise
    return [EndpointCheck(kind, endpoint, results[kind, endpoint, _]) for kind, endpoint, _ in jobs]
