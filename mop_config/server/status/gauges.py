"""The gauges of a host, made from the records of its workers for each scrape. Pure.

prometheus-client cannot remove a series in its multiprocess mode. Gauges that are made anew have no
series of an endpoint that has left the list.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from operator import itemgetter

from prometheus_client.core import GaugeMetricFamily

from ...model.endpoint import Kind
from ..monitor.reports import ReportedEndpoint
from ..monitor.results import HealthDocument
from ..monitor.schedule import EndpointHealth
from ..parsing.problems import Severity
from ..serving.store import Result
from ..state.worker_record import WorkerRecord
from .document import worst_of

_GOOD = frozenset({Result.APPLIED, Result.UNCHANGED})

#: The samples of a gauge: the values of its labels, and the value.
Samples = dict[tuple[str, ...], float]


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
    return [
        *_reload_gauges(workers),
        *_list_gauges(workers),
        *_endpoint_gauges(health),
        _report_gauge(reports or []),
    ]


def _reload_gauges(workers: list[WorkerRecord]) -> list[GaugeMetricFamily]:
    return [
        _gauge(
            "mop_config_last_reload_successful",
            "1 while every worker's last reload was good, all of them serve the same list, and no"
            " reload thread hangs.",
            {(): float(_is_successful(workers))},
        ),
        _gauge(
            "mop_config_last_reload_success_timestamp_seconds",
            "When the source was last found good, by the worker that is furthest behind.",
            {(): min(worker["figures"]["good_at"] for worker in workers)},
        ),
    ]


def _list_gauges(workers: list[WorkerRecord]) -> list[GaugeMetricFamily]:
    worst = worst_of(workers)
    counts, figures = worst["counts"], worst["figures"]
    return [
        _gauge(
            "mop_config_endpoints",
            "Endpoints that are served.",
            {(Kind.API.value,): counts["api"], (Kind.SOCKETIO.value,): counts["socketio"]},
            "kind",
        ),
        _gauge(
            "mop_config_problems",
            "Problems in the newest text of the source, and with the process.",
            {
                (Severity.ERROR.value,): figures["errors"],
                (Severity.WARNING.value,): figures["warnings"],
            },
            "severity",
        ),
        _gauge(
            "mop_config_waiters",
            "Long polls that are parked.",
            {(): sum(worker["figures"]["waiters"] for worker in workers)},
        ),
    ]


def _endpoint_gauges(health: HealthDocument | None) -> Iterator[GaugeMetricFamily]:
    # Without a worker that checks, the state of the endpoints is unknown.
    endpoints = health["endpoints"] if health and health["alive"] else []
    measures: list[tuple[str, str, Callable[[EndpointHealth], float | None]]] = [
        (
            "mop_config_endpoint_up",
            "1 or 0 for each endpoint that is checked; it is up until its third failure in a row.",
            itemgetter("up"),
        ),
        (
            "mop_config_endpoint_response_seconds",
            "Duration of an endpoint's last check, if that was good.",
            itemgetter("response_seconds"),
        ),
        (
            "mop_config_endpoint_certificate_expiry_timestamp_seconds",
            "When the certificate of an endpoint expires, as of its last good TLS handshake.",
            lambda endpoint: _posix(endpoint["certificate_expires"]),
        ),
    ]
    for name, description, measure in measures:
        values = {(e["kind"], e["url"]): measure(e) for e in endpoints}
        known: Samples = {
            labels: float(value) for labels, value in values.items() if value is not None
        }
        yield _gauge(name, description, known, "kind", "url")


def _report_gauge(reports: list[ReportedEndpoint]) -> GaugeMetricFamily:
    return _gauge(
        "mop_config_client_reports",
        "Requests of clients in the last hour by outcome: ok, or the fault; as they report it.",
        {
            (entry["kind"], entry["url"], fault): count
            for entry in reports
            for fault, count in entry["counts"].items()
        },
        "kind",
        "url",
        "fault",
    )


def _posix(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


def _gauge(name: str, description: str, samples: Samples, *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, description, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _is_successful(workers: list[WorkerRecord]) -> bool:
    results = [worker["history"][0]["result"] if worker["history"] else "" for worker in workers]
    late = any(worker["figures"].get("late") for worker in workers)
    return (
        not late
        and all(result in _GOOD for result in results)
        and len({worker["etag"] for worker in workers}) == 1
    )
