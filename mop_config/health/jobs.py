"""Health checks that wait for their turn: only so many at a time go to one server."""

from collections import Counter, deque
from collections.abc import Iterable

from ..model.address import DEFAULT_PORTS, parse_url
from ..model.endpoint import Endpoint

#: What to check: ``api`` or ``socketio``, the endpoint, and the path that answered before, or None.
Job = tuple[str, Endpoint, str | None]
#: Checks of one server, by host and port, that a client has under way at one time.
PER_SERVER = 4


class JobQueue:
    """Hands out jobs in their order, but none to a server that has its share under way.

    Whoever uses it from several threads holds a lock around each call.

    Args:
        jobs: To begin with.
        share: Jobs of one server that may be under way, or None for any number.
    """

    def __init__(self, jobs: Iterable[Job] = (), share: int | None = PER_SERVER) -> None:
        self._waiting: deque[tuple[str, Job]] = deque()
        self._under_way: Counter[str] = Counter()
        self._share = share
        self.extend(jobs)

    def __len__(self) -> int:
        return len(self._waiting)

    def extend(self, jobs: Iterable[Job]) -> None:
        """Add jobs at the end."""
        self._waiting.extend((_server(job), job) for job in jobs)

    def ready(self) -> int:
        """Count the jobs that could be handed out now."""
        if self._share is None:
            return len(self._waiting)
        waiting = Counter(server for server, _ in self._waiting)
        free = {server: max(0, self._share - self._under_way[server]) for server in waiting}
        return sum(min(number, free[server]) for server, number in waiting.items())

    def take(self) -> Job | None:
        """Hand out the next job whose server has room, and count it as under way."""
        for index, (server, job) in enumerate(self._waiting):
            if self._share is None or self._under_way[server] < self._share:
                del self._waiting[index]
                self._under_way[server] += 1
                return job
        return None

    def done(self, job: Job) -> None:
        """Note that a job is over."""
        server = _server(job)
        self._under_way[server] -= 1
        if not self._under_way[server]:
            del self._under_way[server]

    def clear(self) -> None:
        """Forget the jobs that wait."""
        self._waiting.clear()


def _server(job: Job) -> str:
    url = parse_url(job[1].url)
    return f"{url.host}:{url.port or DEFAULT_PORTS[url.scheme]}"
