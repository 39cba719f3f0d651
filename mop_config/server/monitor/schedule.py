"""Which endpoints are checked and when, what is known of them, and what that means. Pure.

Times are monotonic seconds, but for ``checked_at``, which is POSIX time since it is shown
and outlives the process.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from operator import attrgetter
from typing import Any, NamedTuple

from ...health.probe import ProbeResult
from ...health.state import Evidence, Health, HealthRules, HealthState
from ...model.codec import iter_endpoints
from ...model.endpoint import Endpoint, Kind
from ...net.faults import Fault

#: How many endpoints of each kind are checked: the best ones. While all of these are down, twice
#: as many are, and so on, up to a limit.
MOST, LIMIT = 100, 1600
#: How many of an endpoint's latest checks are kept.
RECENT = 30
#: How many characters of what was seen.
DETAIL = 200
#: Seconds from one of many new endpoints to the next, so that a reload is no storm.
SPREAD = 0.05
#: Status of a server that does not want to be asked so often: it says nothing of its health.
_TOO_MANY = 429

#: One endpoint as it is kept in the file of findings.
Record = dict[str, Any]
Listed = dict[str, list[Endpoint]]


def best(body: bytes, most: Mapping[str, int]) -> Listed:
    """Choose what to check: the best endpoints of each kind, best first.

    Args:
        body: The list as it is served.
        most: How many of each kind.
    """
    return {
        kind: nsmallest(most[kind], iter_endpoints(body, kind), key=attrgetter("priority"))
        for kind in Kind
    }


def rules(interval: float) -> HealthRules:
    """Give the figures for checks at an interval in seconds.

    What fails is asked again sooner than what works, never later.
    """
    return HealthRules(
        interval=interval, first_backoff=min(1.0, interval), max_backoff=min(30.0, interval)
    )


class Watched:
    """One endpoint, and what is known of it.

    Attributes:
        kind: ``api`` or ``socketio``.
        endpoint: As it is listed now.
        health: Its state, and when it is due.
        path: The path that answered a check, or None.
        checking: Whether a check is under way.
        checked_at: POSIX time of the last check, or None.
        detail: What that check saw.
        recent: Seconds that the latest checks took, newest last; None for one that failed.
    """

    __slots__ = (
        "checked_at",
        "checking",
        "detail",
        "endpoint",
        "health",
        "kind",
        "path",
        "recent",
    )

    def __init__(self, kind: str, endpoint: Endpoint, health: Health) -> None:
        self.kind = kind
        self.endpoint = endpoint
        self.health = health
        self.path: str | None = None
        self.checking = False
        self.checked_at: float | None = None
        self.detail = ""
        self.recent: deque[float | None] = deque(maxlen=RECENT)

    def record(self) -> Record:
        """Put it into the form that is kept."""
        return {
            "kind": self.kind,
            "url": self.endpoint.url,
            "state": self.health.state.value,
            "failures": self.health.failures,
            "checked_at": self.checked_at,
            "detail": self.detail,
            "recent": list(self.recent),
        }

    def restore(self, record: Record, due: float) -> None:
        """Take up what another worker, or an earlier one, knew.

        Args:
            record: What ``record`` gave it.
            due: When it is to be checked while all is well, in monotonic seconds.
        """
        health = self.health
        health.state, health.failures = HealthState(record["state"]), record["failures"]
        self.checked_at, self.detail = record["checked_at"], record["detail"]
        self.recent.extend(record["recent"])
        if health.state is HealthState.HEALTHY:
            health.next_probe = max(health.next_probe, due)


class HealthChange(NamedTuple):
    """An endpoint that went down or came back."""

    kind: str
    url: str
    up: bool
    detail: str


class ProbeSchedule:
    """What is known of the endpoints that are listed.

    Args:
        rules: The figures.
        chance: Gives random numbers from 0 to 1.
        known: What was known before, as ``records`` gave it.
    """

    def __init__(
        self, rules: HealthRules, chance: Callable[[], float], known: Iterable[Record] = ()
    ) -> None:
        self._rules = rules
        self._chance = chance
        self._known = {(record["kind"], record["url"]): record for record in known}
        self._watched: dict[tuple[str, str], Watched] = {}
        self._unwatched: Mapping[str, int] = {}

    def follow(
        self, listed: Listed, now: float, posix: float, *, others: Mapping[str, int] | None = None
    ) -> None:
        """Watch what is listed from now on, and forget what is not.

        Args:
            listed: The endpoints of each kind that are to be watched, best first.
            now: Monotonic seconds.
            posix: The same moment as POSIX time.
            others: How many more there are of each kind; None is none.
        """
        self._unwatched = others or {}
        before, self._watched = self._watched, {}
        new = 0
        for kind, endpoints in listed.items():
            for endpoint in endpoints:
                key = kind, endpoint.url
                watched = before.get(key)
                if watched is None:
                    new += 1
                    due = now + SPREAD * (new - self._chance())
                    watched = self._new(kind, endpoint, due, posix)
                watched.endpoint = endpoint
                self._watched[key] = watched
        self._known = {}

    def _new(self, kind: str, endpoint: Endpoint, due: float, posix: float) -> Watched:
        watched = Watched(kind, endpoint, Health(self._rules, due))
        record = self._known.get((kind, endpoint.url))
        if record is not None:
            age = max(0.0, posix - (record["checked_at"] or 0.0))
            watched.restore(record, due + self._rules.regular_delay(self._chance()) - age)
        return watched

    def __len__(self) -> int:
        return len(self._watched)

    def due(self, now: float, room: int) -> list[Watched]:
        """Give those that are to be checked now, and take them as being checked.

        Args:
            now: Monotonic seconds.
            room: How many at most.
        """
        waiting = [w for w in self._watched.values() if not w.checking]
        late = [w for w in waiting if w.health.next_probe <= now]
        late.sort(key=lambda watched: watched.health.next_probe)
        for watched in late[: max(0, room)]:
            watched.checking = True
        return late[: max(0, room)]

    def wait(self, now: float) -> float:
        """Give the seconds until another check is due; infinity for never."""
        times = (w.health.next_probe for w in self._watched.values() if not w.checking)
        return max(0.0, min(times, default=float("inf")) - now)

    def record(
        self, watched: Watched, result: ProbeResult, now: float, posix: float
    ) -> HealthChange | None:
        """Take the outcome of a check in.

        Args:
            watched: What was checked.
            result: What was found.
            now: Monotonic seconds.
            posix: The same moment as POSIX time.

        Returns:
            What the operator is to know of, if that is anything.
        """
        watched.checking = False
        if self._watched.get((watched.kind, watched.endpoint.url)) is not watched:
            return None  # it is listed no more
        chance = self._chance()
        if result.fault is Fault.OURS or result.status == _TOO_MANY:
            watched.health.postpone(now, chance)
            return None
        good = result.fault is None
        watched.checked_at = posix
        watched.detail = _detail(result)
        watched.path = result.path or watched.path
        watched.recent.append(round(result.seconds, 6) if good else None)
        evidence = Evidence.GOOD_PROBE if good else Evidence.BAD_PROBE
        transition = watched.health.record(evidence, now, chance)
        if not transition.went_down and not transition.came_back:
            return None
        return HealthChange(
            watched.kind, watched.endpoint.url, transition.came_back, watched.detail
        )

    def outages(self) -> dict[str, bool]:
        """Say of each kind whether all its endpoints are down.

        A kind of which that is not known is left out: one where none is known to be healthy
        while not all are known to be down. One that has left the list is not down; where no
        endpoint is listed at all, nothing is known.
        """
        found: dict[str, bool] = {}
        for kind in Kind:
            states = self._states(kind)
            if HealthState.HEALTHY in states or (not states and self._watched):
                found[kind] = False
            elif self._all_down(states) and not self._unwatched.get(kind):
                found[kind] = True
        return found

    def widths(self) -> dict[str, int]:
        """Say how many endpoints of each kind are to be watched, the best ones.

        More are while all that are watched are down: the next may be up.
        """
        return {kind: self._width(self._states(kind)) for kind in Kind}

    def _width(self, states: list[HealthState]) -> int:
        if HealthState.HEALTHY in states[:MOST]:
            return MOST
        width = MOST
        while width < len(states):
            width *= 2
        return min(LIMIT, width * 2 if len(states) >= width and self._all_down(states) else width)

    def _states(self, kind: str) -> list[HealthState]:
        return [w.health.state for w in self._watched.values() if w.kind == kind]

    @staticmethod
    def _all_down(states: list[HealthState]) -> bool:
        return bool(states) and not any(state.usable for state in states)

    def urls(self, kind: str, *, down: bool) -> list[str]:
        """Give the endpoints of a kind that are down, or those that are healthy; best first."""
        return [
            w.endpoint.url
            for w in self._watched.values()
            if w.kind == kind
            and (not w.health.usable if down else w.health.state is HealthState.HEALTHY)
        ]

    def records(self) -> list[Record]:
        """Put everything that is known into the form that is kept."""
        return [watched.record() for watched in self._watched.values()]


def _detail(result: ProbeResult) -> str:
    text = result.detail if result.fault is None else f"{result.fault.value}: {result.detail}"
    return text if len(text) <= DETAIL else text[: DETAIL - 1] + "…"
