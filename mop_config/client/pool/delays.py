"""The hedge delay and the dial-race delay, from recent measurements. Pure.

A measured delay is short at a fast endpoint: if an API usually answers in 20 ms, a hedge need not
wait a whole second. Every step takes the time as an argument.
"""

import math
import re
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import lru_cache

#: Seconds for which a measured time counts.
RECENT = 300.0
#: A delay is this multiple of the measured time: a healthy endpoint rarely answers later.
MULTIPLE = 3.0
#: Largest number of answers of an endpoint that count, and number from which the delay uses them.
ANSWERS, ENOUGH = 100, 20
#: Bounds of the hedge delay in seconds; the upper bound holds until enough answers are known.
HEDGE_LEAST, HEDGE_MOST = 0.05, 1.0
#: Largest number of dials of an endpoint that count.
DIALS = 10
#: Bounds of the race delay in seconds; the upper bound holds until a dial is known.
RACE_LEAST, RACE_MOST = 0.05, 0.25
#: Weight of the newest answer in a route's share of late answers.
WEIGHT = 0.1
#: A route with a larger share of late answers is slow by itself, so a hedge would not help.
LATE_SHARE = 0.15
#: Limit of the routes that are remembered.
ROUTES = 256
#: Limit of a route's path segments; the route ends before a segment that looks like an identifier.
_SEGMENTS = 3
_VERSION = re.compile(r"v\d+\Z")


class AnswerTimes:
    """The times to first byte of an endpoint's last answers."""

    def __init__(self) -> None:
        self._times: deque[tuple[float, float]] = deque()  # arrival, and seconds it took
        self._sorted: list[float] = []
        self.delay = HEDGE_MOST  # as of the last call of ``hedge_delay``

    def add(self, seconds: float, now: float) -> None:
        """Record an answer.

        Args:
            seconds: Time to first byte of the answer.
            now: Monotonic seconds.
        """
        if len(self._times) == ANSWERS:
            self._drop_oldest()
        self._times.append((now, seconds))
        insort(self._sorted, seconds)

    def hedge_delay(self, now: float) -> float:
        """Return the seconds to wait for a first byte before a hedge starts."""
        times = self._times
        while times and times[0][0] < now - RECENT:
            self._drop_oldest()
        self.delay = HEDGE_MOST
        if len(times) >= ENOUGH:
            high = self._sorted[math.ceil(0.95 * len(times)) - 1]
            self.delay = min(HEDGE_MOST, max(HEDGE_LEAST, MULTIPLE * high))
        return self.delay

    def _drop_oldest(self) -> None:
        _, seconds = self._times.popleft()
        del self._sorted[bisect_left(self._sorted, seconds)]


def race_delay(dials: Iterable[tuple[float, float]], now: float) -> float:
    """Return the seconds to wait for a dial before the race dials the next endpoint too.

    Args:
        dials: End (monotonic seconds) and duration (seconds) of each of the last dials.
        now: Monotonic seconds.
    """
    recent = [seconds for at, seconds in tuple(dials) if at >= now - RECENT]
    return min(RACE_MOST, max(RACE_LEAST, MULTIPLE * max(recent))) if recent else RACE_MOST


@lru_cache(maxsize=1024)
def route_of(method: str, path: str) -> str:
    """Return the route of a request: its method and the prefix of its path without identifiers."""
    kept = []
    for segment in path.partition("?")[0].strip("/").split("/")[:_SEGMENTS]:
        if not _VERSION.match(segment) and any(char.isdigit() for char in segment):
            break
        kept.append(segment)
    return f"{method} /{'/'.join(kept)}"


class SlowRoutes:
    """The share of late answers of each route, so that slow routes stop hedging.

    Attributes:
        shares: The shares of the routes that had late answers lately.
    """

    def __init__(self) -> None:
        self.shares: OrderedDict[str, float] = OrderedDict()

    def record(self, route: str, *, late: bool) -> None:
        """Record whether an answer came later than the hedge delay of its endpoint."""
        share = self.shares.get(route)
        if share is None:
            if not late:
                return
            share = 0.0
        share += WEIGHT * (late - share)
        self.shares[route] = share
        self.shares.move_to_end(route)
        if share < WEIGHT / 10:
            del self.shares[route]
        elif len(self.shares) > ROUTES:
            self.shares.popitem(last=False)

    def is_slow(self, route: str) -> bool:
        """Whether many recent answers of a route were late."""
        return self.shares.get(route, 0.0) > LATE_SHARE
