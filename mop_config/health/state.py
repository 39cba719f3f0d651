"""The health of one endpoint as a state machine. Pure.

The caller passes the time, in monotonic seconds, and random numbers from 0 to 1, so that a
simulation can run years in seconds. By default three failures in a row make an
endpoint unhealthy, and an endpoint is checked every five minutes.
"""

from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from math import inf
from typing import NamedTuple

from ..net.http import backoff


class HealthState(StrEnum):
    """The state of an endpoint.

    ``unknown`` and ``healthy`` endpoints are used alike. A ``suspect`` endpoint has failed, and
    ranks behind these endpoints until a health check succeeds. An ``unhealthy`` endpoint has
    failed ``unhealthy_after`` times in a row; the endpoint is ``recovering`` from the first good
    check to the second.
    """

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    UNHEALTHY = "unhealthy"
    RECOVERING = "recovering"

    @property
    def usable(self) -> bool:
        """Whether requests go to the endpoint if no better endpoint is left."""
        return self in _USABLE


#: The states of endpoints without a failure.
NOT_FAILED = frozenset({HealthState.UNKNOWN, HealthState.HEALTHY})
_USABLE = NOT_FAILED | {HealthState.SUSPECT}


class Evidence(StrEnum):
    """The kinds of outcomes that change the state of an endpoint."""

    GOOD_PROBE = "good-probe"
    BAD_PROBE = "bad-probe"
    GOOD_REQUEST = "good-request"
    BAD_REQUEST = "bad-request"
    #: Another endpoint was much faster: a reason for a health check, not a failure.
    STALL = "stall"


_BAD = frozenset({Evidence.BAD_PROBE, Evidence.BAD_REQUEST})

#: Every legal transition. The second of two states needs the evidence several times in a row.
TRANSITIONS: dict[tuple[HealthState, Evidence], tuple[HealthState, ...]] = {
    # Evidence without an entry below keeps the state.
    **{(state, evidence): (state,) for state, evidence in product(HealthState, Evidence)},
    (HealthState.UNKNOWN, Evidence.GOOD_PROBE): (HealthState.HEALTHY,),
    (HealthState.UNKNOWN, Evidence.GOOD_REQUEST): (HealthState.HEALTHY,),
    (HealthState.UNKNOWN, Evidence.STALL): (HealthState.SUSPECT,),
    (HealthState.HEALTHY, Evidence.STALL): (HealthState.SUSPECT,),
    (HealthState.SUSPECT, Evidence.GOOD_PROBE): (HealthState.HEALTHY,),
    (HealthState.UNHEALTHY, Evidence.GOOD_PROBE): (HealthState.RECOVERING, HealthState.HEALTHY),
    (HealthState.RECOVERING, Evidence.GOOD_PROBE): (HealthState.RECOVERING, HealthState.HEALTHY),
    # Failed probes and failed requests count alike.
    **dict.fromkeys(product(_USABLE, _BAD), (HealthState.SUSPECT, HealthState.UNHEALTHY)),
    **{(HealthState.RECOVERING, bad): (HealthState.UNHEALTHY,) for bad in _BAD},
}


class Transition(NamedTuple):
    """The state before and after a piece of evidence."""

    before: HealthState
    after: HealthState

    @property
    def went_down(self) -> bool:
        """Whether the endpoint has just become unusable."""
        return self.before.usable and not self.after.usable

    @property
    def came_back(self) -> bool:
        """Whether the endpoint has just become usable again."""
        return not self.before.usable and self.after.usable


@dataclass(frozen=True, slots=True)
class HealthRules:
    """The settings of the state machine. All times are seconds.

    Attributes:
        health_interval: Seconds between two probes of a healthy endpoint.
        health_jitter: Share of the interval by which the interval varies either way.
        unhealthy_after: Failures in a row that make an endpoint unhealthy.
        healthy_after: Good probes in a row that make an endpoint healthy again.
        first_backoff: Seconds from a failed probe to the next; doubled at each further failure.
        max_backoff: Upper bound of that backoff.
        smoothing: Weight of the newest response time in the average.
    """

    health_interval: float = 300.0
    health_jitter: float = 0.1
    unhealthy_after: int = 3
    healthy_after: int = 2
    first_backoff: float = 1.0
    max_backoff: float = 30.0
    smoothing: float = 0.2

    def regular_delay(self, chance: float) -> float:
        """Return the seconds until the next regular probe, varied by ``chance`` from 0 to 1."""
        return self.health_interval * (1 + self.health_jitter * (2 * chance - 1))

    def backoff(self, failures: int) -> float:
        """Return the seconds until the next probe after ``failures`` failed probes in a row."""
        return backoff(failures, self.first_backoff, self.max_backoff)


class Health:
    """The health of one endpoint, and the time of its next probe.

    Args:
        rules: The settings of the state machine.
        now: Monotonic seconds, at which the first probe is due.
        state: The state to start in, for example of the process that probed before.
        failures: The failures in a row until now.

    Attributes:
        state: See ``HealthState``.
        usable: Whether requests go to the endpoint if no better endpoint is left.
        is_steady: Whether a further good request changes nothing.
        failures: Failures in a row.
        since: When the state was entered, in monotonic seconds.
        response_time: Smoothed duration of good probes in seconds, or None.
        next_probe: When the next probe is due.
    """

    def __init__(
        self,
        rules: HealthRules,
        now: float,
        state: HealthState = HealthState.UNKNOWN,
        failures: int = 0,
    ) -> None:
        self._rules = rules
        self._good_probes = 0
        self._probe_failures = 0
        self._postponed = 0
        self._recheck = -inf  # when the last probe of ``recheck`` was due
        self.state, self.usable = state, state.usable
        self.is_steady = False
        self.failures = failures
        self.since = now
        self.response_time: float | None = None
        self.next_probe = now

    def record(self, evidence: Evidence, now: float, chance: float = 0.5) -> Transition:
        """Record a piece of evidence.

        Args:
            evidence: The outcome of a request or of a probe.
            now: Monotonic seconds.
            chance: A random number from 0 to 1, which varies the time of the next probe, so
                that the clients of a fleet do not probe in step.
        """
        if evidence in _BAD:
            self.failures += 1
            self._good_probes = 0
        elif evidence is not Evidence.STALL:
            self.failures = self._postponed = 0
        if evidence is Evidence.GOOD_PROBE:
            self._good_probes += 1
            self._probe_failures = 0
        elif evidence is Evidence.BAD_PROBE:
            self._probe_failures += 1
        before, after = self.state, self._next(evidence)
        if after is not before:
            self.state, self.usable, self.since = after, after.usable, now
        self._schedule(evidence, before, now, chance)
        self.is_steady = after is HealthState.HEALTHY and not (self.failures or self._postponed)
        return Transition(before, after)

    def _next(self, evidence: Evidence) -> HealthState:
        few, *many = TRANSITIONS[self.state, evidence]
        count, needed = self.failures, self._rules.unhealthy_after
        if evidence is Evidence.GOOD_PROBE:
            count, needed = self._good_probes, self._rules.healthy_after
        return many[0] if many and count >= needed else few

    def _schedule(self, evidence: Evidence, before: HealthState, now: float, chance: float) -> None:
        rules = self._rules
        if self.state is HealthState.HEALTHY:
            if evidence is Evidence.GOOD_PROBE:
                self.next_probe = now + rules.regular_delay(chance)
        elif before in NOT_FAILED and evidence is not Evidence.BAD_PROBE:
            self.recheck(now)  # first failure
        elif evidence is Evidence.GOOD_PROBE:
            self.next_probe = now + rules.first_backoff
        elif evidence is Evidence.BAD_PROBE:
            # Up to a tenth less, so that clients whose probes failed together do not stay in step.
            self.next_probe = now + rules.backoff(self._probe_failures) * (1 - 0.1 * chance)

    def recheck(self, now: float) -> None:
        """Schedule a probe at once, but ``first_backoff`` seconds after the last such probe.

        A good probe clears the suspicion of a failed request. Without the pause, an endpoint whose
        requests fail while its health path is good would be probed at each request.
        """
        if self._recheck <= now:
            self._recheck = max(now, self._recheck + self._rules.first_backoff)
        self.next_probe = max(now, min(self.next_probe, self._recheck))

    def postpone(self, now: float, chance: float) -> None:
        """Schedule another probe soon, without counting a failure."""
        self._postponed += 1
        self.is_steady = False
        self.next_probe = now + self._rules.backoff(self._postponed) * (1 - 0.1 * chance)

    def measured(self, seconds: float) -> None:
        """Add the duration of a good probe to the average."""
        average = seconds if self.response_time is None else self.response_time
        self.response_time = average + self._rules.smoothing * (seconds - average)
