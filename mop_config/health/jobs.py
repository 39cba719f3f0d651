"""A queue of health checks that limits the concurrent checks of one server."""

from collections import Counter, deque
from collections.abc import Iterable

from ..model.address import DEFAULT_PORTS, parse_url
from ..model.endpoint import Endpoint

#: A check: ``api`` or ``socketio``, the endpoint, and the path that answered before, or None.
Job = tuple[str, Endpoint, str | None]
#: Limit of a client's concurrent checks of one server (host and port).
PER_SERVER = 4


class JobQueue:
    """A queue that returns jobs in order, and skips servers that have reached their limit.

    Threads that share a queue hold a lock around each call.

    Args:
        jobs: The first jobs.
        share: Limit of the running jobs of one server, or None for no limit.
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
        """Return the number of jobs that ``take`` could return now."""
        if self._share is None:
            return len(self._waiting)
        waiting = Counter(server for server, _ in self._waiting)
        free = {server: max(0, self._share - self._under_way[server]) for server in waiting}
        return sum(min(number, free[server]) for server, number in waiting.items())

    def take(self) -> Job | None:
        """Return the next job whose server is below its limit, and count it as running."""
        for index, (server, job) in enumerate(self._waiting):
            if self._share is None or self._under_way[server] < self._share:
                del self._waiting[index]
                self._under_way[server] += 1
                return job
        return None

    def done(self, job: Job) -> None:
        """Record the end of a job."""
        server = _server(job)
        self._under_way[server] -= 1
        if not self._under_way[server]:
            del self._under_way[server]

    def clear(self) -> None:
        """Remove the waiting jobs."""
        self._waiting.clear()


def _server(job: Job) -> str:
    url = parse_url(job[1].url)
    return f"{url.host}:{url.port or DEFAULT_PORTS[url.scheme]}"
