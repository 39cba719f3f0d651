"""What is true of a host now, as gauges: from what its workers say of themselves. Pure.

They are made anew for each scrape, so that the series of what is gone are gone too.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ...model.endpoint import Kind
from ..monitor.results import HealthDocument
from ..state.worker_record import WorkerFigures, WorkerRecord
from .document import worst_of


class Gauge(NamedTuple):
    """One gauge.

    Attributes:
        name: Its whole name.
        help: What it says.
        labels: The names of its labels.
        samples: The labels' values, in that order, and the value.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float]]


def worker_figures(
    errors: int, warnings: int, waiters: int, good_at: float, *, late: bool = False
) -> WorkerFigures:
    """Put what only the gauges need into the form that is kept in a worker's file.

    Args:
        errors: Exact number of errors in the newest text.
        warnings: The same of warnings.
        waiters: Parked requests.
        good_at: POSIX time at which what is served was found good; 0 for never.
        late: Whether the reload thread stands still.
    """
    return {
        "errors": errors,
        "warnings": warnings,
        "waiters": waiters,
        "good_at": good_at,
        "late": late,
    }


def host_gauges(workers: list[WorkerRecord], health: HealthDocument | None) -> list[Gauge]:
    """Give the gauges of a host.

    Args:
        workers: The state of each live worker; not empty.
        health: ``health`` of the status document; None where nothing is probed.
    """
    worst = worst_of(workers)
    counts, figures = worst["counts"], worst["figures"]
    return [
        Gauge(
            "mop_config_last_reload_successful",
            "1 while every worker's last reload was good, all of them serve the same list, and no"
            " reload thread stands still.",
            (),
            [((), float(_successful(workers)))],
        ),
        Gauge(
            "mop_config_last_reload_success_timestamp_seconds",
            "When the source was last found good, by the worker that lags behind most.",
            (),
            [((), min(float(worker["figures"]["good_at"]) for worker in workers))],
        ),
        Gauge(
            "mop_config_endpoints",
            "Endpoints that are served.",
            ("kind",),
            [
                ((Kind.API,), float(counts["api"])),
                ((Kind.SOCKETIO,), float(counts["socketio"])),
            ],
        ),
        Gauge(
            "mop_config_problems",
            "Problems in the newest text of the source, and with the process.",
            ("severity",),
            [(("error",), float(figures["errors"])), (("warning",), float(figures["warnings"]))],
        ),
        Gauge(
            "mop_config_waiters",
            "Long polls that are parked.",
            (),
            [((), float(sum(worker["figures"]["waiters"] for worker in workers)))],
        ),
        *_health_gauges(health),
    ]


def _successful(workers: list[WorkerRecord]) -> bool:
    results = [worker["history"][0]["result"] if worker["history"] else "" for worker in workers]
    good = all(result in {"applied", "unchanged"} for result in results)
    good = good and not any(worker["figures"].get("late") for worker in workers)
    return good and len({worker["etag"] for worker in workers}) == 1


def _health_gauges(health: HealthDocument | None) -> list[Gauge]:
    # What nobody checks any more is not known to be up.
    endpoints = {
        (str(endpoint["kind"]), str(endpoint["url"])): endpoint
        for endpoint in (health["endpoints"] if health and health["alive"] else ())
    }
    up = [
        (labels, float(endpoint["up"]))
        for labels, endpoint in endpoints.items()
        if endpoint["up"] is not None
    ]
    seconds = [
        (labels, float(endpoint["response_seconds"]))
        for labels, endpoint in endpoints.items()
        if endpoint["response_seconds"] is not None
    ]
    return [
        Gauge(
            "mop_config_endpoint_up",
            "1 or 0 for each endpoint that is checked; one that failed once or twice is up still.",
            ("kind", "url"),
            up,
        ),
        Gauge(
            "mop_config_endpoint_response_seconds",
            "How long an endpoint took to answer its last check, if that was good.",
            ("kind", "url"),
            seconds,
        ),
    ]
