"""The figures of failover, and who may be asked again. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ...health.state import HealthRules
from ...net.http import retry_after as parse_retry_after
from .delays import HEDGE_MOST

#: Methods whose request may be executed twice without harm: RFC 9110, 9.2.2.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
#: Methods that change nothing, so that asking two servers at once costs only their work.
HEDGED = frozenset({"GET", "HEAD", "OPTIONS"})
#: Answers that the endpoint gives because what is behind it does not work.
BAD_STATUS = frozenset({502, 503, 504, *range(520, 528), 530})
#: Those of them that a CDN gives because it has not reached the server behind it. 520, 524 and
#: 527 say that the server did not answer well: it may have executed the request.
NOT_REACHED = frozenset({521, 522, 523, 525, 526})
#: Answers below 500 that say more about the way to the application than about the request.
ODD_STATUS = frozenset({403, 451})
#: So many odd answers in a row are a reason to look at an endpoint that answered well before.
ODD_IN_A_ROW = 3
#: Answers that ask to come back later, where they say when.
BUSY_STATUS = frozenset({429, 503})


Probe = Literal["all", "current", "none"]
PROBES: tuple[Probe, ...] = ("all", "current", "none")
#: The longest time, in seconds: the system's own calls overflow at 24 days.
MAX_SECONDS = 1_000_000
#: Times without which nothing would ever be tried, or be given up.
_POSITIVE = (
    "health_interval",
    "health_timeout",
    "first_backoff",
    "max_backoff",
    "connect_timeout",
    "total_timeout",
)
#: Times that may be nothing.
_DELAYS = ("race_delay", "body_pause", "hedge_delay")
#: Delays that may follow what was measured lately.
_MEASURED = ("race_delay", "hedge_delay")
#: Numbers of things.
_COUNTS = (
    "unhealthy_after",
    "healthy_after",
    "probe_parallelism",
    "max_list_bytes",
    "max_endpoints",
)
#: Whatever else is 0 or more.
_FIGURES = (
    "health_jitter",
    "smoothing",
    "budget",
    "attempt_cost",
    "hedge_cost",
    "success_refund",
    "min_dwell",
    "latency_gain",
    "latency_margin",
    "max_retry_after",
    "offline_window",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """How hard the client tries, and when it gives up. All times are seconds.

    Attributes:
        health_interval: Between two probes of an endpoint while all is well.
        health_jitter: Share of that by which it varies either way.
        health_timeout: How long a probe may take.
        unhealthy_after: Failures in a row that make an endpoint unhealthy.
        healthy_after: Good probes in a row that make it healthy again.
        first_backoff: From a failed probe to the next.
        max_backoff: What that grows to, doubling.
        smoothing: Weight of the newest response time in the average.
        probe_parallelism: Probes under way at one time.
        probe: Which endpoints are probed regularly: ``all``, ``current`` (the endpoint in use and
            those that have failed) or ``none``.
        connect_timeout: How long a dial (TCP and TLS) may take.
        total_timeout: How long a request may take over all its attempts, up to the first
            byte of the answer.
        race_delay: How long a dial may take before the next endpoint is dialled beside it.
            ``auto``: three times the longest of the endpoint's last dials, from 50 to 250 ms.
        body_pause: How long the body of an answer that is read as a whole may pause before
            the request goes on to another endpoint.
        hedge_delay: How long a GET, HEAD or OPTIONS waits for its first byte before it is
            sent to one more endpoint. ``auto``: three times the 95th percentile of the
            endpoint's last answers, from 50 ms to 1 s.
        budget: Tokens that further attempts are paid from.
        attempt_cost: Tokens for each attempt after a request's first move.
        hedge_cost: Tokens for each hedge.
        success_refund: Tokens that a success gives back.
        min_dwell: How long to stay before going back to a better endpoint that recovered.
        latency_gain: Share by which another endpoint of the same priority must be faster.
        latency_margin: Seconds by which it must be faster as well.
        bad_status: Statuses that count against an endpoint, as no answer of the application.
        max_retry_after: Longest time for which a busy endpoint is avoided.
        offline_window: Time within which two hosts must be unreachable to mean that this
            machine has no network.
        max_list_bytes: How large a remote list may be, unpacked.
        max_endpoints: How many endpoints a list may have, of both kinds together.
    """

    health_interval: float = 300.0
    health_jitter: float = 0.1
    health_timeout: float = 5.0
    unhealthy_after: int = 3
    healthy_after: int = 2
    first_backoff: float = 1.0
    max_backoff: float = 30.0
    smoothing: float = 0.2
    probe_parallelism: int = 64
    probe: Probe = "all"
    connect_timeout: float = 2.0
    total_timeout: float = 30.0
    race_delay: float | Literal["auto"] = "auto"
    body_pause: float = 5.0
    hedge_delay: float | Literal["auto"] = "auto"
    budget: float = 500.0
    attempt_cost: float = 5.0
    hedge_cost: float = 20.0
    success_refund: float = 1.0
    min_dwell: float = 30.0
    latency_gain: float = 0.2
    latency_margin: float = 0.02
    bad_status: frozenset[int] = BAD_STATUS
    max_retry_after: float = 300.0
    offline_window: float = 1.0
    max_list_bytes: int = 4 << 20
    max_endpoints: int = 10_000

    def __post_init__(self) -> None:
        for name in (*_POSITIVE, *_DELAYS, *_COUNTS, *_FIGURES):
            value = getattr(self, name)
            if name in _MEASURED and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                or_auto = " or 'auto'" if name in _MEASURED else ""
                raise TypeError(f"{name} must be a number{or_auto}, not {value!r}")
            if name in _COUNTS and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number, 1 or more, not {value!r}")
            if name in _POSITIVE and not 0 < value <= MAX_SECONDS:
                allowed = f"more than 0 and at most {MAX_SECONDS} seconds"
                raise ValueError(f"{name} must be {allowed}, not {value!r}")
            if name in _DELAYS and not 0 <= value <= MAX_SECONDS:
                raise ValueError(f"{name} must be 0 to {MAX_SECONDS} seconds, not {value!r}")
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, not {value!r}")
        if self.probe not in PROBES:
            raise ValueError(f"probe must be one of {', '.join(PROBES)}, not {self.probe!r}")
        object.__setattr__(self, "bad_status", _statuses(self.bad_status))

    @property
    def health(self) -> HealthRules:
        """The figures of each endpoint's state machine."""
        return HealthRules(
            self.unhealthy_after,
            self.healthy_after,
            self.health_interval,
            self.health_jitter,
            self.first_backoff,
            self.max_backoff,
            self.smoothing,
        )

    @property
    def queue_delay(self) -> float:
        """Seconds for which a request waits in a queue before it tries another endpoint's."""
        return HEDGE_MOST if self.hedge_delay == "auto" else self.hedge_delay

    def busy_for(self, status: int, retry_after: str | None, now_posix: float) -> float | None:
        """Seconds for which an answer asks to be left alone, or None.

        Args:
            status: The answer's status code.
            retry_after: Its ``Retry-After``: seconds, or an HTTP date (RFC 9110, 10.2.3).
            now_posix: POSIX time, for the date.
        """
        if status not in BUSY_STATUS or retry_after is None:
            return None
        seconds = parse_retry_after(retry_after, now_posix)
        return None if seconds is None else min(seconds, self.max_retry_after)


def _statuses(value: Iterable[int]) -> frozenset[int]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"bad_status must be a set of HTTP statuses, not {value!r}")
    for status in (statuses := frozenset(value)):
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"bad_status must hold numbers from 400 to 599, not {status!r}")
    return statuses


def policy_or_default(policy: Policy | None) -> Policy:
    """Return the ``policy`` of a manager, or the default one.

    Raises:
        TypeError: If it is not a policy.
    """
    if not isinstance(policy, Policy | None):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    return policy or Policy()


def checked_interval(seconds: float) -> float:
    """Return the ``update_interval`` of a manager.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is less than 0, or longer than any update is worth waiting for.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"update_interval must be a number of seconds, not {seconds!r}")
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"update_interval must be 0 to {MAX_SECONDS} seconds, not {seconds!r}")
    return seconds


class Budget:
    """Keeps a fleet from doubling the load of a sick backend.

    Each request's first move to another endpoint is free, so that a dead primary costs
    nobody a request; what goes beyond that is paid for.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.tokens = policy.budget

    def spend(self) -> bool:
        """Pay for one more attempt; False where too little is left."""
        return self._spend(self._policy.attempt_cost)

    def spend_on_hedge(self) -> bool:
        """Pay for a hedge; False where too little is left."""
        return self._spend(self._policy.hedge_cost)

    def _spend(self, cost: float) -> bool:
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def refund(self) -> None:
        """Take note of a success."""
        self.tokens = min(self._policy.budget, self.tokens + self._policy.success_refund)
