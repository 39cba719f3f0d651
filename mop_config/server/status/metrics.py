"""Metrics: the counters of an application, the gauges of its host, and the text of a scrape.

The counters and the histogram are prometheus-client's. Under gunicorn with our hooks they are kept
in files for all workers (its multiprocess mode), else in this process alone.

prometheus-client names a file after a process id and never removes it, since the counts of a dead
worker must not vanish. Here a file belongs to a place. A worker reserves the lowest free place with
a lock, and continues the counts in the place's file; the system frees the lock when the worker
ends. So there are as many files as there were workers at a time, and every count stays.

The gauges are made from the workers' records for each scrape, because prometheus-client cannot
remove a series in its multiprocess mode. So an endpoint that has left the list has no series.
"""

import contextlib
import fcntl
import itertools
import logging
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from ...files import locked, replacing
from ..logs import describe
from ..monitor.reports import ReportedEndpoint
from ..monitor.thread import HealthDocument
from ..serving.store import HISTORY, Reload, Result, Trigger
from ..state.directory import WorkerRecord
from .document import worst_of

logger = logging.getLogger(__name__)

#: The environment variable that names the folder of the files to prometheus-client.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "mop-config-metrics-"
#: Size of a file in bytes: more than all our series need, so that it never grows.
FILE_SIZE = 1 << 18
_KINDS = ("counter", "histogram")
#: Label of requests whose path is no route: a client could make up any number of paths.
OTHER = "other"
#: Upper bounds of the histogram in seconds; a large list takes seconds.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_GOOD = frozenset({Result.APPLIED, Result.UNCHANGED})
#: The locks of the places that this process has.
_places = contextlib.ExitStack()

#: Labels of a series about one endpoint.
_URL = ("kind", "url")
#: The gauges: the description and the labels of each.
_GAUGES = {
    "last_reload_successful": (
        "1 unless a reload failed, a thread hangs, or two lists are served.",
    ),
    "last_reload_success_timestamp_seconds": ("When every worker had found the source good.",),
    "endpoints": ("Endpoints that are served.", "kind"),
    "problems": ("Problems in the newest text of the source, and with the process.", "severity"),
    "waiters": ("Long polls that are parked.",),
    "endpoint_up": ("1 until the third failed check of an endpoint in a row, else 0.", *_URL),
    "endpoint_response_seconds": ("Duration of the last check of an endpoint, if good.", *_URL),
    "endpoint_certificate_expiry_timestamp_seconds": ("When the certificate expires.", *_URL),
    "client_reports": ("Requests of clients in the last hour, as they report.", *_URL, "fault"),
}


class Metrics:
    """The counters of an application; no method raises.

    ``start`` or the first count decides where the counters are kept. Reloads before that are
    counted then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._early: deque[Reload] | None = deque(maxlen=HISTORY)  # None once started
        self._requests: dict[tuple[str, str], Callable[[], None]] = {}

    def start(self, folder: str | None = None) -> None:
        """Create the counters, unless they exist.

        Args:
            folder: Folder in which all workers of one gunicorn keep their counters; None counts
                for this process alone.
        """
        with self._lock:
            if self._early is None:
                return
            try:
                self._create(folder)
            except OSError as error:
                logger.warning("metrics are counted for this process alone: %s", describe(error))
                values.ValueClass = values.MutexValue
                self._create(None)
            early = self._early
            self._early = None
        for reload in early:
            self.reload(reload)

    def _create(self, folder: str | None) -> None:
        registry = CollectorRegistry()
        self._collect: Callable[[], Iterable[Metric]] = registry.collect
        if folder is not None:
            place = take_place(Path(folder))
            # This is how the library learns which files are this process's.
            values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]
            self._collect = MultiProcessCollector(None, folder).collect  # type: ignore[no-untyped-call]
        counter = partial(Counter, registry=registry)
        self._answered = counter(
            "mop_config_requests_total", "Requests, by URL rule and status.", ["route", "status"]
        )
        reloads = counter(
            "mop_config_reloads_total", "Reloads, counted in each worker.", ["trigger", "result"]
        )
        # Prometheus sees no increase in a series that begins with 1, so every series begins with 0.
        self._reloads = {
            (trigger, result): reloads.labels(trigger.value, result.value)
            for trigger, result in itertools.product(Trigger, Result)
        }
        self._denied = counter("mop_config_auth_failures_total", "Requests without a valid token.")
        self._durations = Histogram(
            "mop_config_reload_duration_seconds",
            "Duration of a reload, counted in each worker.",
            buckets=_BUCKETS,
            registry=registry,
        )

    def request(self, route: str, status: str) -> None:
        """Count a request that was answered.

        Args:
            route: The URL rule of the request, or ``OTHER``.
            status: The HTTP status line, or its three digits.
        """
        try:
            self._requests[route, status]()
        except KeyError:
            self.start()
            self._requests[route, status] = self._answered.labels(route, status[:3]).inc
            self._requests[route, status]()

    def auth_failure(self) -> None:
        """Count a request without a valid token."""
        self.start()
        self._denied.inc()

    def reload(self, reload: Reload) -> None:
        """Count a reload."""
        with self._lock:
            if self._early is not None:
                self._early.append(reload)
                return
        self._reloads[reload.trigger, reload.result].inc()
        self._durations.observe(reload.duration)

    def expose(self, gauges: Iterable[Metric]) -> bytes:
        """Return the text of a scrape.

        Args:
            gauges: The gauges of the host.
        """
        self.start()
        counters = sorted(self._collect(), key=lambda metric: metric.name)
        for metric in counters:
            # Only a registry of one process has times of creation.
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
        everything: Any = SimpleNamespace(collect=lambda: [*counters, *gauges])
        return generate_latest(everything)


def make_folder(user: int, group: int) -> Path:
    """Make a new folder for the workers of this master.

    Args:
        user: Id of the user that the workers run as.
        group: Id of the group that the workers run as.

    Raises:
        OSError: If the folder cannot be made.
    """
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    if os.geteuid() == 0:
        os.chown(path, user, group)
    # systemd-tmpfiles leaves a locked folder alone. The lock is held until this process ends.
    fcntl.flock(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH)
    return path


def take_place(folder: Path) -> str:
    """Reserve a place in a folder for as long as this process lives.

    Args:
        folder: The folder.

    Returns:
        The name of the place, which no other live worker has, for the names of this process's
        files.

    Raises:
        OSError: If there is no room for the files.
    """
    for number in itertools.count():
        with contextlib.suppress(BlockingIOError):  # of a live worker
            _places.enter_context(locked(folder / f"place{number}.lock", -1.0))
            break
    for kind in _KINDS:
        _allocate(folder / f"{kind}_place{number}.db")
    return f"place{number}"


def _allocate(path: Path) -> None:
    """Make a file of zeros whose blocks are allocated on the disk.

    prometheus-client maps the file into memory, and the system kills a process that writes to a
    mapped page while the disk is full. The file appears complete, since other workers read it.
    """
    if not os.path.lexists(path):
        with replacing(str(path), sync=False) as file:
            os.posix_fallocate(file.fileno(), 0, FILE_SIZE)


def host_gauges(
    workers: list[WorkerRecord],
    health: HealthDocument | None,
    reports: list[ReportedEndpoint] | None = None,
) -> list[GaugeMetricFamily]:
    """Return the gauges of a host.

    Args:
        workers: The record of each live worker; not empty.
        health: The results of the health checks, or None if health checks are off.
        reports: What clients reported in the last hour, or None if reports are off.
    """
    gauges = {
        name: GaugeMetricFamily(f"mop_config_{name}", description, labels=labels)
        for name, (description, *labels) in _GAUGES.items()
    }

    def add(name: str, value: float | None, *labels: str) -> None:
        if value is not None:
            gauges[name].add_metric(labels, float(value))

    served = worst_of(workers)["served"]
    latest = [worker["history"][0]["result"] for worker in workers if worker["history"]]
    all_good = len(latest) == len(workers) and _GOOD.issuperset(latest)
    one_list = len({worker["served"]["etag"] for worker in workers}) == 1
    late = any(worker["late"] for worker in workers)
    add("last_reload_successful", all_good and one_list and not late)
    add("last_reload_success_timestamp_seconds", min(worker["good_at"] for worker in workers))
    for name, counts in (("endpoints", served["counts"]), ("problems", served["problem_counts"])):
        for label, number in counts.items():
            add(name, number, label)
    add("waiters", sum(worker["waiters"] for worker in workers))
    # Without a worker that checks, the state of the endpoints is unknown.
    for check in health["endpoints"] if health and health["alive"] else []:
        where = (check["kind"], check["url"])
        expires = check["certificate_expires"]
        moment = datetime.fromisoformat(expires).timestamp() if expires else None
        add("endpoint_up", check["up"], *where)
        add("endpoint_response_seconds", check["response_seconds"], *where)
        add("endpoint_certificate_expiry_timestamp_seconds", moment, *where)
    for entry in reports or []:
        for fault, count in entry["counts"].items():
            add("client_reports", count, entry["kind"], entry["url"], fault)
    return list(gauges.values())
