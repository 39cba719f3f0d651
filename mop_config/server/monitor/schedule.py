"""ProbeSchedule: which endpoints are checked when, and what the results mean. Pure.

Times are monotonic seconds, except ``posix``: the results are shown and outlive the process. The
checks of the last 24 hours of each endpoint are kept in slots of a quarter of an hour.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import nsmallest
from operator import attrgetter
from typing import NamedTuple, TypedDict

from ...health.probe import ProbeResult
from ...health.state import Evidence, Health, HealthRules, HealthState, Transition
from ...model.endpoint import Endpoint, Kind, iter_endpoints, rfc3339
from ...net.faults import Fault

#: Limit of endpoints of each kind that are checked: the best ones.
MOST = 200
#: Limit of the characters of a result's description.
DETAIL = 200
#: Length of a slot, and number of slots that are kept for each endpoint: 24 hours.
SLOT_SECONDS = 900
SLOTS = 96
#: A rate-limiting server (429) says nothing about its health.
_TOO_MANY = 429


class EndpointHealth(TypedDict):
    """The results for one endpoint, in the status document and in the state folder.

    ``up`` is None before the first check. ``failures`` counts the failures in a row.
    ``certificate_expires`` is None while no valid certificate has been received. Times are
    RFC 3339.
    """

    kind: str
    url: str
    state: str
    up: bool | None
    failures: int
    response_seconds: float | None
    checked_at: str | None
    detail: str
    certificate_expires: str | None


class Slot(NamedTuple):
    """The checks of one endpoint in a quarter of an hour.

    Attributes:
        number: POSIX time of the slot in units of ``SLOT_SECONDS``.
        checks: Number of checks.
        good: Number of good checks.
        seconds: Sum of the durations of the good checks.
    """

    number: int
    checks: int
    good: int
    seconds: float


#: The slots of each endpoint, oldest first, by kind and URL.
Slots = Mapping[tuple[str, str], list[Slot]]


def add_check(slots: deque[Slot], posix: float, seconds: float | None) -> None:
    """Add a check to the slots of an endpoint.

    Args:
        slots: The slots, oldest first.
        posix: POSIX time of the check.
        seconds: Duration of the check, or None for a failed check.
    """
    number = int(posix // SLOT_SECONDS)
    while slots and slots[-1].number > number:
        slots.pop()  # the clock was set back
    last = slots.pop() if slots and slots[-1].number == number else Slot(number, 0, 0, 0.0)
    good = seconds is not None
    total = round(last.seconds + (seconds or 0.0), 6)
    slots.append(Slot(number, last.checks + 1, last.good + good, total))


def best(body: bytes) -> dict[Kind, list[Endpoint]]:
    """Return the endpoints of each kind that are checked, best first.

    Args:
        body: The served list.
    """
    return {
        kind: nsmallest(MOST, iter_endpoints(body, kind), key=attrgetter("priority"))
        for kind in Kind
    }


def rules(interval: float) -> HealthRules:
    """Return the rules for checks every ``interval`` seconds.

    A failing endpoint is never checked less often than a healthy one.
    """
    return HealthRules(
        health_interval=interval,
        first_backoff=min(1.0, interval),
        max_backoff=min(30.0, interval),
    )


@dataclass(slots=True, eq=False)
class WatchedEndpoint:
    """One endpoint and its results.

    Attributes:
        kind: The endpoint's kind.
        endpoint: The endpoint as the served list has it.
        health: The endpoint's state, and the time of its next check.
        results: The results as the status shows them.
        slots: The checks of the last 24 hours, oldest first.
        path: The path that answered a check, or None.
    """

    kind: Kind
    endpoint: Endpoint
    health: Health
    results: EndpointHealth
    slots: deque[Slot]
    path: str | None = None


class ProbeSchedule:
    """The watched endpoints and their results.

    Args:
        rules: The rules of the health states.
        chance: Returns random numbers from 0 to 1.
        known: The results of the worker that checked before.
        slots: The history of the checks of that worker.
    """

    def __init__(
        self,
        rules: HealthRules,
        chance: Callable[[], float],
        known: Iterable[EndpointHealth] = (),
        slots: Slots | None = None,
    ) -> None:
        self._rules = rules
        self._chance = chance
        self._known = {(results["kind"], results["url"]): results for results in known}
        self._known_slots = slots or {}
        self._watched: dict[tuple[str, str], WatchedEndpoint] = {}

    def follow(self, listed: Mapping[Kind, list[Endpoint]], now: float, posix: float) -> None:
        """Watch these endpoints, and forget all others.

        Args:
            listed: The endpoints of each kind, best first.
            now: Monotonic seconds.
            posix: The same moment as POSIX time.
        """
        before = self._watched
        self._watched = {}
        for kind, endpoints in listed.items():
            for endpoint in endpoints:
                key = kind.value, endpoint.url
                watched = before.get(key) or self._new(kind, endpoint, now, posix)
                watched.endpoint = endpoint
                self._watched[key] = watched
        self._known = {}
        self._known_slots = {}

    def _new(self, kind: Kind, endpoint: Endpoint, now: float, posix: float) -> WatchedEndpoint:
        key = kind.value, endpoint.url
        results = self._known.get(key) or EndpointHealth(
            kind=kind.value,
            url=endpoint.url,
            state=HealthState.UNKNOWN,
            up=None,
            failures=0,
            response_seconds=None,
            checked_at=None,
            detail="",
            certificate_expires=None,
        )
        health = Health(self._rules, now, HealthState(results["state"]), results["failures"])
        if results["checked_at"] and health.state is HealthState.HEALTHY:
            # Workers that take over from each other often must not check more often.
            age = max(0.0, posix - datetime.fromisoformat(results["checked_at"]).timestamp())
            delay = self._rules.regular_delay(self._chance()) - age
            health.next_probe = now + max(0.0, delay)
        slots = deque(self._known_slots.get(key, ()), maxlen=SLOTS)
        return WatchedEndpoint(kind, endpoint, health, results.copy(), slots)

    def due(self, now: float) -> list[WatchedEndpoint]:
        """Return the endpoints whose check begins now, the longest overdue first.

        They are not due again until their results are recorded.
        """
        late = [each for each in self._watched.values() if each.health.next_probe <= now]
        late.sort(key=lambda watched: watched.health.next_probe)
        for watched in late:
            watched.health.next_probe = math.inf
        return late

    def record(
        self, watched: WatchedEndpoint, result: ProbeResult, now: float, posix: float
    ) -> Transition:
        """Record the result of a check.

        Args:
            watched: The endpoint that was checked.
            result: The result.
            now: Monotonic seconds.
            posix: The same moment as POSIX time.

        Returns:
            The states of the endpoint before and after.
        """
        health = watched.health
        results = watched.results
        chance = self._chance()
        unchanged = Transition(health.state, health.state)
        if self._watched.get((watched.kind.value, watched.endpoint.url)) is not watched:
            return unchanged  # the endpoint has left the list
        if result.fault is Fault.OURS or result.status == _TOO_MANY:
            health.postpone(now, chance)
            return unchanged
        good = result.fault is None
        seconds = round(result.seconds, 6) if good else None
        transition = health.record(Evidence.GOOD_PROBE if good else Evidence.BAD_PROBE, now, chance)
        watched.path = result.path or watched.path
        add_check(watched.slots, posix, seconds)
        detail = result.detail if good else f"{result.fault}: {result.detail}"
        results |= {
            "state": health.state.value,
            "up": health.usable,
            "failures": health.failures,
            "response_seconds": seconds,
            "checked_at": rfc3339(posix),
            "detail": detail if len(detail) <= DETAIL else detail[: DETAIL - 1] + "…",
        }
        if result.certificate_expires is not None:
            results["certificate_expires"] = rfc3339(result.certificate_expires.timestamp())
        return transition

    def outages(self) -> dict[Kind, tuple[bool, list[str]]]:
        """Return for each kind whether all its watched endpoints are down.

        A kind is left out while that is not known: no endpoint is known to be healthy, and not all
        are known to be down. A kind that has left the list is not down. If the whole list is empty,
        nothing is known.

        Returns:
            Whether the kind is down, and the endpoints that are down, or those that are healthy;
            best first.
        """
        found: dict[Kind, tuple[bool, list[str]]] = {}
        for kind in Kind:
            watched = [w for w in self._watched.values() if w.kind is kind]
            down = [w.endpoint.url for w in watched if not w.health.usable]
            good = [w.endpoint.url for w in watched if w.health.state is HealthState.HEALTHY]
            if good or (not watched and self._watched):
                found[kind] = False, good
            elif down and len(down) == len(watched):
                found[kind] = True, down
        return found

    def results(self) -> list[EndpointHealth]:
        """Return all results."""
        return [watched.results for watched in self._watched.values()]

    def slots(self) -> Slots:
        """Return the history of the checks of each endpoint."""
        return {key: list(watched.slots) for key, watched in self._watched.items()}
