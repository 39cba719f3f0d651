"""The cost of a fleet's polls for the servers of the list.

Each poll is the product's own ``update``; the time of the next poll follows the manager's rule:
an interval with a jitter of a tenth, or one long poll after another.
"""

import contextlib
import random
from collections import Counter
from collections.abc import Generator
from functools import partial
from typing import NamedTuple

from mop_config.client.lists.rules import UpdateContext, update
from mop_config.client.updates import WATCH_WAIT
from mop_config.errors import UpdateFailed
from mop_config.model.endpoint import Endpoint, EndpointConfig, dumps
from mop_config.net.http import HttpReply

from .fleet_world import ROUND_TRIP, Process, World

BASE = "https://config.example/api/v1"
#: Range of Retry-After in seconds for a long poll that finds no free place.
RETRY_AFTER = (5, 20)
OLD, NEW = '"old"', '"new"'
#: The list is edited after this number and a half of intervals.
_ROUNDS = 3


class Polling(NamedTuple):
    """The way in which a fleet polls.

    Attributes:
        interval: Seconds between two polls, or the maximum wait of a long poll.
        held: Whether the polls are long polls.
        jitter: Share of the interval by which it varies in either direction.
        together: Whether all clients start within one second, as after a power cut.
        places: Share of the fleet's long polls that the servers can hold.
        answer: Seconds of a worker's time per answer.
        workers: Number of workers for the whole fleet.
    """

    interval: float
    held: bool = False
    jitter: float = 0.1
    together: bool = False
    places: float = 1.0
    answer: float = 300e-6
    workers: int = 100


class Polls:
    """A fleet that polls for the list, and the servers that answer.

    Args:
        polling: The way of polling.
        size: How many clients are simulated.
        fleet: Number of clients that the simulation represents.
        seed: Seed of the random numbers.

    Attributes:
        size: How many clients are simulated.
        asked: Polls that arrived, by second.
        turned_away: Long polls without a free place, by second.
        edited: Time of the edit of the list.
        ends: Time of the end of the simulation.
        told: Seconds from the edit until each client had the new list.
    """

    def __init__(self, polling: Polling, size: int, fleet: int, seed: int = 1) -> None:
        self._polling = polling
        self.size = size
        self._random = random.Random(seed)
        self._world = World()
        # One simulated worker with the speed of all workers, scaled to the simulated clients.
        self._answer = polling.answer / polling.workers * (fleet / size)
        self._free_at = 0.0
        self._parked = 0
        self._lists = [_list(0), _list(1)]
        self.edited = _ROUNDS * polling.interval + polling.interval / 2
        self.ends = self.edited
        self.asked: Counter[int] = Counter()
        self.turned_away: Counter[int] = Counter()
        self.told: list[float] = []

    def run(self, rest: float) -> None:
        """Run the polls until that number of seconds after the edit."""
        start = 1.0 if self._polling.together else self._polling.interval
        for _ in range(self.size):
            self._world.begin(self._live(), self._random.random() * start)
        self.ends = self.edited + rest
        self._world.run(self.ends)

    @property
    def _etag(self) -> str:
        return NEW if self._world.now >= self.edited else OLD

    def _live(self) -> Process:
        polling, world = self._polling, self._world
        etags: dict[str, str] = {}
        while True:
            wait = self._random.randint(*WATCH_WAIT) if polling.held else 0
            known = UpdateContext((BASE,), {}, etags, wait=wait)
            etag, wait = _request_of(known)
            reply, retry_after = yield from self._reply(etag, wait)
            found = update(BASE, known, partial(_answer, reply), _all_healthy).found
            if found is not None and found.etag is not None:
                etags = {found.url: found.etag}
                if found.etag == NEW:
                    self.told.append(world.now - self.edited)
            pause = retry_after if polling.held else polling.interval
            yield world.now + pause * (1 + polling.jitter * (2 * self._random.random() - 1))

    def _reply(
        self, known_etag: str | None, wait: int
    ) -> Generator[float, None, tuple[HttpReply, float]]:
        world = self._world
        yield world.now + ROUND_TRIP / 2
        self.asked[int(world.now // 1)] += 1
        retry_after = 0.0
        if wait and known_etag == self._etag:
            if self._parked < self._polling.places * self.size:
                self._parked += 1
                until = world.now + wait
                yield self.edited if world.now < self.edited < until else until
                self._parked -= 1
            else:
                self.turned_away[int(world.now // 1)] += 1
                retry_after = float(self._random.randint(*RETRY_AFTER))
        etag = self._etag
        self._free_at = max(self._free_at, world.now) + self._answer
        yield self._free_at + ROUND_TRIP / 2
        known = known_etag == etag
        body = b"" if known else self._lists[etag == NEW]
        return HttpReply(304 if known else 200, {"etag": etag}, body), retry_after


def _request_of(known: UpdateContext) -> tuple[str | None, int]:
    """Return the ETag and the ``wait`` of the product's next request."""
    asked: list[tuple[str | None, int]] = []

    def fetch(_url: str, etag: str | None, wait: int, _with_token: bool) -> HttpReply:
        asked.append((etag, wait))
        return HttpReply(503, {}, b"")

    with contextlib.suppress(UpdateFailed):
        update(BASE, known, fetch, _all_healthy)
    return asked[0]


def _answer(reply: HttpReply, *_: object) -> HttpReply:
    return reply


def _all_healthy(*_: object) -> bool:
    return True


def _list(serial: int) -> bytes:
    return dumps(EndpointConfig((Endpoint(f"https://a{serial}.example/api/v1", 0),), ()))
