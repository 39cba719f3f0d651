"""``Policy``: the timeouts, delays and limits of failover. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Literal, get_args

from ...health.state import HealthRules
from ...net.http import retry_after as parse_retry_after

#: Bounds of the hedge delay in seconds; the upper bound holds until enough answers are known.
HEDGE_LEAST, HEDGE_MOST = 0.05, 1.0
#: Methods whose request may be executed twice without harm: RFC 9110, 9.2.2.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
#: Safe methods, whose requests may be hedged: a second request costs only server load.
HEDGED = frozenset({"GET", "HEAD", "OPTIONS"})
#: Statuses of a gateway or proxy whose backend does not work.
BAD_STATUS = frozenset({502, 503, 504, *range(520, 528), 530})
#: The CDN statuses among them that say that the CDN could not connect to the origin server. After
#: 520, 524 and 527 the origin server may have executed the request.
NOT_REACHED = frozenset({521, 522, 523, 525, 526})
#: Statuses below 500 that often come from a firewall or filter before the application.
ODD_STATUS = frozenset({403, 451})
#: Number of odd answers in a row after which an endpoint that answered well before is probed.
ODD_IN_A_ROW = 3
#: Statuses that, with ``Retry-After``, ask the client to retry later.
BUSY_STATUS = frozenset({429, 503})


#: Seconds, or ``auto`` for a delay derived from recent measurements.
Delay = float | Literal["auto"]
Probe = Literal["all", "current", "none"]
PROBES: tuple[Probe, ...] = get_args(Probe)
#: The largest number, and longest time in seconds; the system's calls overflow at 24 days.
MAX_SECONDS = 1_000_000
#: Ends of the names of the fields that must be greater than 0.
_POSITIVE = ("_interval", "_timeout", "_backoff")
_STATUSES = frozenset(range(400, 600))


@dataclass(frozen=True, slots=True)
class Policy(HealthRules):
    """The timeouts, delays and limits of failover. All times are seconds.

    Attributes:
        health_interval: Seconds between two probes of a healthy endpoint.
        health_jitter: Share of ``health_interval`` by which the interval varies either way.
        unhealthy_after: Failures in a row that make an endpoint unhealthy.
        healthy_after: Good probes in a row that make an endpoint healthy again.
        first_backoff: Seconds from a failed probe to the next; doubled at each further failure.
        max_backoff: Upper bound of that backoff.
        smoothing: Weight of the newest response time in the average.
        health_timeout: Timeout of a probe.
        probe_parallelism: Largest number of concurrent probes.
        probe: Which endpoints are probed regularly: ``all``, ``current`` (the endpoint in use and
            failed endpoints) or ``none``.
        connect_timeout: Timeout of a dial (TCP and TLS).
        total_timeout: Timeout of a request over all its attempts, up to the first byte of the
            answer.
        race_delay: Seconds that a dial may take before the next endpoint is dialled in parallel.
            ``auto``: three times the longest of the endpoint's last dials, from 50 to 250 ms.
        body_pause: Longest pause in the body of an answer that is read as a whole; then the request
            moves to another endpoint.
        hedge_delay: Seconds for which a GET, HEAD or OPTIONS waits for its first byte before a
            hedge sends the request to one more endpoint. ``auto``: three times the
            95th percentile of the endpoint's last answers, from 50 ms to 1 s.
        budget: Capacity of the token bucket that pays for further attempts and hedges.
        attempt_cost: Tokens that each attempt after a request's first move costs.
        hedge_cost: Tokens that each hedge costs.
        success_refund: Tokens that each success returns to the budget.
        min_dwell: Minimum seconds before requests return to a better endpoint that recovered.
        latency_gain: Share by which another endpoint of the same priority must be faster.
        latency_margin: Seconds by which that other endpoint must be faster, too.
        warm_spare: Whether a client in use keeps one idle connection to the next endpoint, so that
            a dead endpoint costs no dial.
        bad_status: Statuses that count against an endpoint.
        max_retry_after: Longest time for which ``Retry-After`` ranks an endpoint last.
        offline_window: Seconds within which two unreachable hosts mean that this machine has no
            network.
        max_list_bytes: Limit of the bytes of a remote list, after decompression.
        max_endpoints: Limit of the endpoints of a list, both kinds together.
    """

    health_timeout: float = 5.0
    probe_parallelism: int = 64
    probe: Probe = "all"
    connect_timeout: float = 2.0
    total_timeout: float = 30.0
    race_delay: Delay = "auto"
    body_pause: float = 5.0
    hedge_delay: Delay = "auto"
    budget: float = 500.0
    attempt_cost: float = 5.0
    hedge_cost: float = 20.0
    success_refund: float = 1.0
    min_dwell: float = 30.0
    latency_gain: float = 0.2
    latency_margin: float = 0.02
    warm_spare: bool = False
    bad_status: frozenset[int] = BAD_STATUS
    max_retry_after: float = 300.0
    offline_window: float = 1.0
    max_list_bytes: int = 4 << 20
    max_endpoints: int = 10_000

    def __post_init__(self) -> None:
        for each in fields(self):
            name, usual, value = each.name, each.default, getattr(self, each.name)
            if usual == "auto" and value != "auto":
                checked_number(name, value, " or 'auto'")
            elif isinstance(usual, float):
                checked_number(name, value, positive=name.endswith(_POSITIVE))
            elif isinstance(usual, bool):
                _check(isinstance(value, bool), name, "True or False", value, TypeError)
            elif isinstance(usual, int):
                fits = type(value) is int and value >= 1
                _check(fits, name, "a whole number, 1 or more", value)
        for name in ("health_jitter", "smoothing"):
            _check(getattr(self, name) <= 1, name, "a share, 0 to 1", getattr(self, name))
        _check(self.probe in PROBES, "probe", f"one of {', '.join(PROBES)}", self.probe)
        given = self.bad_status
        fits = isinstance(given, Collection) and not isinstance(given, (str, bytes))
        fits = fits and _STATUSES.issuperset(given)
        _check(fits, "bad_status", "a set of numbers from 400 to 599", given)
        object.__setattr__(self, "bad_status", frozenset(given))

    @property
    def queue_delay(self) -> float:
        """Seconds for which a request waits in a queue before it tries another endpoint."""
        return HEDGE_MOST if self.hedge_delay == "auto" else self.hedge_delay

    def busy_for(self, status: int, retry_after: str | None, now_posix: float) -> float | None:
        """Return the seconds of an answer's ``Retry-After`` if its status is 429 or 503, or None.

        Args:
            status: The answer's status code.
            retry_after: The header: seconds, or an HTTP date (RFC 9110, 10.2.3); None if missing.
            now_posix: POSIX seconds, to which the date is compared.
        """
        if status not in BUSY_STATUS or retry_after is None:
            return None
        seconds = parse_retry_after(retry_after, now_posix)
        return None if seconds is None else min(seconds, self.max_retry_after)


def checked_number(name: str, value: float, more: str = "", *, positive: bool = False) -> float:
    """Check a number of an application, such as a time in seconds, and return it.

    Args:
        name: The argument.
        value: Its value.
        more: Other values that are allowed, for the message.
        positive: Whether 0 is refused.

    Raises:
        TypeError: If the value is no number.
        ValueError: If the number is not from 0 to 1,000,000.
    """
    least = "more than 0 and at most" if positive else "0 to"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = is_number and 0 <= value <= MAX_SECONDS and not (positive and value == 0)
    error = ValueError if is_number else TypeError
    _check(fits, name, f"a number, {least} {MAX_SECONDS}{more}", value, error)
    return value


def _check(
    fits: bool, name: str, allowed: str, value: object, error: type[Exception] = ValueError
) -> None:
    if not fits:
        raise error(f"{name} must be {allowed}, not {value!r}")
