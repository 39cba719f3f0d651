"""What is counted, and how it is told to Prometheus.

Counters and the histogram are prometheus-client's, in its multiprocess mode where gunicorn runs
with our hooks, of this process alone elsewhere. Gauges are what the workers say of themselves
when somebody asks (see ``gauges``).
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.exposition import generate_latest as plain_text
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from ..logs.format import describe
from ..serving.store import HISTORY, Reload, Result, Trigger
from .gauges import Gauge
from .multiprocess import VARIABLE, take_place

logger = logging.getLogger(__name__)

#: Of requests for what is no route of ours: a path that a client made up is no label.
OTHER = "other"
#: Seconds; a large list takes some.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of an application; nothing in it raises.

    Which files they are kept in is decided with ``start``, or with the first that is counted.
    Reloads before that are counted then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._early: deque[Reload] = deque(maxlen=HISTORY)
        self._series: _Series | None = None
        self._requests: dict[tuple[str, str], Callable[[], None]] = {}

    def start(self, folder: str | None = None) -> "_Series":
        """Begin to count, unless that has begun.

        Args:
            folder: Where the workers that belong together keep their counters; None counts
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
            route: The URL rule that took it, or ``OTHER``.
            status: The HTTP status line, or its three digits.
        """
        try:
            self._requests[route, status]()
        except KeyError:
            count = self._started().requests.labels(route, status[:3]).inc
            self._requests[route, status] = count
            count()

    def auth_failure(self) -> None:
        """Count a request that showed no token, or none that is good."""
        self._started().auth_failures.inc()

    def reload(self, reload: Reload) -> None:
        """Count a look at the source that meant something."""
        with self._lock:
            series = self._series
            if series is None:
                self._early.append(reload)
                return
        series.reload(reload)

    def expose(self, gauges: Iterable[Gauge], *, open_metrics: bool = False) -> tuple[bytes, str]:
        """Tell everything.

        Args:
            gauges: What is true of the host now.
            open_metrics: Whether in OpenMetrics' text format rather than Prometheus' own.

        Returns:
            The text, and its content type.
        """
        everything: Any = _Everything(self._started(), gauges)
        if open_metrics:
            return openmetrics(everything), CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
        return plain_text(everything), CONTENT_TYPE_PLAIN_0_0_4

    def _started(self) -> "_Series":
        return self._series or self.start()


class _Series:
    """prometheus-client's objects.

    Args:
        folder: As for ``Metrics.start``.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._registry = CollectorRegistry()
        # What is collected from a folder must not be collected from here as well.
        registry = self._registry if folder is None else None
        self.requests = Counter(
            "mop_config_requests_total",
            "Requests that were answered, by URL rule and HTTP status.",
            ["route", "status"],
            registry=registry,
        )
        reloads = Counter(
            "mop_config_reloads_total",
            "Looks at the source that meant something, counted in each worker.",
            ["trigger", "result"],
            registry=registry,
        )
        # From nothing to 1 is no increase in Prometheus' eyes: so all begin at 0.
        self._reloads = {
            (trigger, result): reloads.labels(trigger.value, result.value)
            for trigger in Trigger
            for result in Result
        }
        self.auth_failures = Counter(
            "mop_config_auth_failures_total",
            "Requests that showed no token, or none that is good.",
            registry=registry,
        )
        self._durations = Histogram(
            "mop_config_reload_duration_seconds",
            "How long a reload took, counted in each worker.",
            buckets=_BUCKETS,
            registry=registry,
        )

    def reload(self, reload: Reload) -> None:
        self._reloads[reload.trigger, reload.result].inc()
        self._durations.observe(reload.duration)

    def collect(self) -> Iterator[Metric]:
        if self._folder is None:
            yield from self._registry.collect()
        else:
            yield from MultiProcessCollector(None, str(self._folder)).collect()  # type: ignore[no-untyped-call]


def _series(folder: str | None) -> _Series:
    try:
        if folder is None or os.environ.get(VARIABLE) != folder:
            return _Series(None)
        # The library's way to say which files are whose; told before a series is made.
        values.ValueClass = values.MultiProcessValue(take_place(Path(folder)))  # type: ignore[no-untyped-call]
        return _Series(Path(folder))
    except OSError as error:
        logger.warning("the metrics speak for this process alone: %s", describe(error))
        values.ValueClass = values.MutexValue
        return _Series(None)


class _Everything:
    """What prometheus-client writes out: its own series, then the gauges."""

    def __init__(self, series: _Series, gauges: Iterable[Gauge]) -> None:
        self._series = series
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for metric in sorted(self._series.collect(), key=lambda metric: metric.name):
            # Only a registry of one process has times of creation.
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric
        for gauge in self._gauges:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in gauge.samples:
                family.add_metric(labels, value)
            yield family
