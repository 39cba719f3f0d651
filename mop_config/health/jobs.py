"""CheckQueue: health checks in threads, with a limit of all checks and of those of one server."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable

from ..model.address import DEFAULT_PORTS, parse_url
from ..model.endpoint import Endpoint
from ..net.faults import lacks_resources
from .probe import Prober, ProbeResult

logger = logging.getLogger(__name__)

#: A check: ``api`` or ``socketio``, the endpoint, and the path that answered before, or None.
Job = tuple[str, Endpoint, str | None]
#: Function that gets each result, in the thread of the check. After it has returned True, no
#: further check is begun.
Report = Callable[[Job, ProbeResult], object]
#: Function that starts a thread, which runs the function that is passed.
Spawn = Callable[[Callable[[], None]], threading.Thread | None]
#: Limit of a client's concurrent checks of one server (host and port).
PER_SERVER = 4


class CheckQueue:
    """A queue of health checks, and the threads that run them in order.

    A check is passed over while its server has reached its limit.

    Args:
        prober: Runs the checks.
        report: Gets the results.
        parallel: Limit of concurrent checks.
        share: Limit of concurrent checks of one server; None for no limit.
    """

    def __init__(
        self, prober: Prober, report: Report, parallel: int, share: int | None = PER_SERVER
    ) -> None:
        self._prober = prober
        self._report = report
        self._parallel = parallel
        self._share = parallel if share is None else share
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, Job]] = deque()
        self._under_way: Counter[str] = Counter()
        self._threads = 0

    def start(self, jobs: Iterable[Job], spawn: Spawn) -> list[threading.Thread]:
        """Add checks at the end, and start a thread for each check that can begin now.

        Args:
            jobs: The new checks.
            spawn: Starts a thread that runs a function; returns None if no thread can be started.
        """
        with self._lock:
            self._waiting.extend((_server(job), job) for job in jobs)
            waiting = Counter(server for server, _ in self._waiting)
            ready = sum(
                min(number, max(0, self._share - self._under_way[server]))
                for server, number in waiting.items()
            )
            more = max(0, min(self._parallel - self._threads, ready))
            self._threads += more
        started: list[threading.Thread] = []
        while len(started) < more:
            thread = spawn(self.run)
            if thread is None:
                with self._lock:
                    self._threads -= more - len(started)
                break
            started.append(thread)
        return started

    def run(self) -> None:
        """Run checks until no check can begin."""
        server: str | None = None
        while (found := self._next(server)) is not None:
            server, job = found
            try:
                if self._report(job, self._prober.check(*job)) is True:
                    with self._lock:
                        self._waiting.clear()
            except Exception as error:
                logger.error("a health check was lost: %s: %s", type(error).__name__, error)

    def _next(self, done: str | None) -> tuple[str, Job] | None:
        """Return the next check and its server; None ends the thread.

        Args:
            done: The server that this thread has just checked, or None.
        """
        with self._lock:
            if done is not None:
                self._under_way[done] -= 1
            for found in self._waiting:
                if self._under_way[found[0]] < self._share:
                    self._waiting.remove(found)
                    self._under_way[found[0]] += 1
                    return found
            self._threads -= 1
            return None


def check_each(
    prober: Prober, jobs: Iterable[Job], report: Report, parallel: int, share: int | None = None
) -> list[threading.Thread]:
    """Start checks of several endpoints in threads; see ``CheckQueue``.

    Returns:
        The threads of the checks; empty if no thread could be started and the checks ran in the
        caller's thread. The threads are daemons: an interrupt during the start of a thread may
        leave the thread waiting for a lock for ever.
    """
    queue = CheckQueue(prober, report, parallel, share)
    threads = queue.start(jobs, _spawn)
    if not threads:
        queue.run()
    return threads


def _spawn(run: Callable[[], None]) -> threading.Thread | None:
    thread = threading.Thread(target=run, name="mop-config-check", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if not lacks_resources(error):
            raise  # an interrupt during the start leaves a lock held
        # Out of threads: the running threads take the checks, or else the caller does.
        logger.debug("fewer checks at a time: %s", error)
        return None
    return thread


def _server(job: Job) -> str:
    url = parse_url(job[1].url)
    return f"{url.host}:{url.port or DEFAULT_PORTS[url.scheme]}"
