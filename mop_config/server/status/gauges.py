"""The gauges of a host, made from the records of its workers for each scrape. Pure.

prometheus-client cannot remove a series in its multiprocess mode. Gauges that are made anew have no
series of an endpoint that has left the list.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from operator import itemgetter

from prometheus_client.core import GaugeMetricFamily

from ..monitor.reports import ReportedEndpoint
from ..monitor.results import HealthDocument
from ..monitor.schedule import EndpointHealth
from ..serving.store import Result
from ..state.workers import WorkerRecord
from .document import worst_of

_GOOD = frozenset({Result.APPLIED, Result.UNCHANGED})

#: The samples of a gauge: the values of its labels, and the value; None makes no series.
Samples = Mapping[tuple[str, ...], float | None]


def host_gauges(
    workers: list[WorkerRecord],
    health: HealthDocument | None,
    reports: list[ReportedEndpoint] | None = None,
) -> list[GaugeMetricFamily]:
    """Return the gauges of a host.

    Args:
        workers: The record of each live worker; not empty.
        health: The results of the health checks, or None if no worker checks the endpoints.
        reports: What clients reported in the last hour, or None if reports are off.
    """
    served = worst_of(workers)["served"]
    counts, problems = served["counts"], served["problem_counts"]
    return [
        _gauge(
            "last_reload_successful",
            "1 while every worker's last reload was good, all of them serve the same list, and no"
            " reload thread hangs.",
            {(): _is_successful(workers)},
        ),
        _gauge(
            "last_reload_success_timestamp_seconds",
            "When the source was last found good, by the worker that is furthest behind.",
            {(): min(worker["figures"]["good_at"] for worker in workers)},
        ),
        _gauge(
            "endpoints",
            "Endpoints that are served.",
            {("api",): counts["api"], ("socketio",): counts["socketio"]},
            "kind",
        ),
        _gauge(
            "problems",
            "Problems in the newest text of the source, and with the process.",
            {("error",): problems["error"], ("warning",): problems["warning"]},
            "severity",
        ),
        _gauge(
            "waiters",
            "Long polls that are parked.",
            {(): sum(worker["figures"]["waiters"] for worker in workers)},
        ),
        # Without a worker that checks, the state of the endpoints is unknown.
        *_endpoint_gauges(health["endpoints"] if health and health["alive"] else []),
        _report_gauge(reports or []),
    ]


def _report_gauge(reports: list[ReportedEndpoint]) -> GaugeMetricFamily:
    return _gauge(
        "client_reports",
        "Requests of clients in the last hour by outcome: ok, or the fault; as they report it.",
        {
            (entry["kind"], entry["url"], fault): count
            for entry in reports
            for fault, count in entry["counts"].items()
        },
        *("kind", "url", "fault"),
    )


def _endpoint_gauges(endpoints: list[EndpointHealth]) -> list[GaugeMetricFamily]:
    def of_each(value: Callable[[EndpointHealth], float | None]) -> Samples:
        return {(each["kind"], each["url"]): value(each) for each in endpoints}

    labels = ("kind", "url")
    return [
        _gauge(
            "endpoint_up",
            "1 or 0 for each endpoint that is checked; it is up until its third failure in a row.",
            of_each(itemgetter("up")),
            *labels,
        ),
        _gauge(
            "endpoint_response_seconds",
            "Duration of an endpoint's last check, if that was good.",
            of_each(itemgetter("response_seconds")),
            *labels,
        ),
        _gauge(
            "endpoint_certificate_expiry_timestamp_seconds",
            "When the certificate of an endpoint expires, as of its last good TLS handshake.",
            of_each(lambda each: _posix(each["certificate_expires"])),
            *labels,
        ),
    ]


def _posix(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


def _gauge(name: str, description: str, samples: Samples, *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"mop_config_{name}", description, labels=labels)
    for values, value in samples.items():
        if value is not None:
            family.add_metric(values, float(value))
    return family


def _is_successful(workers: list[WorkerRecord]) -> bool:
    return len({worker["served"]["etag"] for worker in workers}) == 1 and all(
        not worker["figures"]["late"]
        and worker["history"]
        and worker["history"][0]["entry"]["result"] in _GOOD
        for worker in workers
    )
