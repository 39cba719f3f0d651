"""Metrics: the counters of an application, and the text of a scrape.

The counters and the histogram are prometheus-client's. Under gunicorn with our hooks they are kept
in files for all workers (its multiprocess mode), else in this process alone. Gauges come from the
workers' records at each scrape; see ``gauges``.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from ..logs import describe
from ..serving.store import HISTORY, Reload, Result, Trigger
from .multiprocess import VARIABLE, take_place

logger = logging.getLogger(__name__)

#: Label of requests whose path is no route: a client could make up any number of paths.
OTHER = "other"
#: Upper bounds of the histogram in seconds; a large list takes seconds.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of an application; no method raises.

    ``start`` or the first count decides where the counters are kept. Reloads before that are
    counted then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._early: deque[Reload] = deque(maxlen=HISTORY)
        self._series: _Series | None = None
        self._requests: dict[tuple[str, str], Callable[[], None]] = {}

    def start(self, folder: str | None = None) -> "_Series":
        """Create the counters, unless they exist.

        Args:
            folder: Folder in which all workers of one gunicorn keep their counters; None counts
                for this process alone.
        """
        with self._lock:
            if self._series is None:
                self._series = _series(folder)
                for reload in self._early:
                    self._series.reload(reload)
            return self._series

    def request(self, route: str, status: str) -> None:
        """Count a request that was answered.

        Args:
            route: The URL rule of the request, or ``OTHER``.
            status: The HTTP status line, or its three digits.
        """
        try:
            self._requests[route, status]()
        except KeyError:
            count = self._started().requests.labels(route, status[:3]).inc
            self._requests[route, status] = count
            count()

    def auth_failure(self) -> None:
        """Count a request without a valid token."""
        self._started().auth_failures.inc()

    def reload(self, reload: Reload) -> None:
        """Count a reload."""
        with self._lock:
            series = self._series
            if series is None:
                self._early.append(reload)
                return
        series.reload(reload)

    def expose(self, gauges: Iterable[Metric]) -> bytes:
        """Return the text of a scrape.

        Args:
            gauges: The gauges of the host.
        """
        counters = sorted(self._started().collect(), key=lambda metric: metric.name)
        for metric in counters:
            # Only a registry of one process has times of creation.
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
        everything: Any = SimpleNamespace(collect=lambda: [*counters, *gauges])
        return generate_latest(everything)

    def _started(self) -> "_Series":
        return self._series or self.start()


class _Series:
    """The counters and the histogram of prometheus-client.

    Args:
        folder: See ``Metrics.start``.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._registry = CollectorRegistry()
        # Series that are collected from the folder must not be collected from here as well.
        registry = self._registry if folder is None else None
        self.requests = Counter(
            "mop_config_requests_total",
            "Requests that were answered, by URL rule and HTTP status.",
            ["route", "status"],
            registry=registry,
        )
        reloads = Counter(
            "mop_config_reloads_total",
            "Reloads, counted in each worker.",
            ["trigger", "result"],
            registry=registry,
        )
        # Prometheus sees no increase in a series that begins with 1, so every series begins with 0.
        self._reloads = {
            (trigger, result): reloads.labels(trigger.value, result.value)
            for trigger in Trigger
            for result in Result
        }
        self.auth_failures = Counter(
            "mop_config_auth_failures_total",
            "Requests without a valid token.",
            registry=registry,
        )
        self._durations = Histogram(
            "mop_config_reload_duration_seconds",
            "Duration of a reload, counted in each worker.",
            buckets=_BUCKETS,
            registry=registry,
        )

    def reload(self, reload: Reload) -> None:
        self._reloads[reload.trigger, reload.result].inc()
        self._durations.observe(reload.duration)

    def collect(self) -> Iterable[Metric]:
        if self._folder is None:
            return self._registry.collect()
        return MultiProcessCollector(None, str(self._folder)).collect()  # type: ignore[no-untyped-call,no-any-return]


def _series(folder: str | None) -> _Series:
    try:
        if folder is None or os.environ.get(VARIABLE) != folder:
            return _Series(None)
        # This is how the library learns which files are this process's, before a series is made.
        values.ValueClass = values.MultiProcessValue(take_place(Path(folder)))  # type: ignore[no-untyped-call]
        return _Series(Path(folder))
    except OSError as error:
        logger.warning("metrics are counted for this process alone: %s", describe(error))
        values.ValueClass = values.MutexValue
        return _Series(None)
