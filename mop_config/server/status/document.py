"""The status document of a host, made from the records of its workers. Pure.

Each worker keeps its record in the state folder (see ``state.workers``). The worker that answers
a request for the status merges all records, so that every worker gives the same answer.
"""

from collections.abc import Iterable
from typing import Any, NotRequired, TypedDict

from ...model.codec import rfc3339
from ..monitor.reports import ReportedEndpoint
from ..monitor.results import HealthDocument
from ..parsing.problems import Problem, ProblemRecord
from ..serving.store import HISTORY, Reload, Result, ServerState, SourceState
from ..state.worker_record import (
    AnswerRecord,
    EndpointCounts,
    ReloadRecord,
    WatcherRecord,
    WorkerFigures,
    WorkerRecord,
    reload_for,
)

#: Seconds within which the same result in several workers counts as one event.
SAME_EVENT = 2.0

#: Results from the best to the worst: the worst of all workers is the result of a reload.
_RESULTS = [Result.UNCHANGED, Result.APPLIED, Result.REJECTED, Result.ERROR]
#: States from the worst to the best: the status shows the state of the worst worker.
_STATES = [SourceState.EMPTY, SourceState.REJECTED, SourceState.STALE, SourceState.FRESH]


class ReloadDocument(TypedDict):
    """A reload in the status document; ``at`` is RFC 3339. See ``Reload`` for the members."""

    at: str
    trigger: str
    result: str
    error: str | None
    duration_seconds: float


class HistoryEntry(ReloadDocument):
    """A reload in the history of the status document."""

    etag: str | None
    code: NotRequired[str | None]
    change: NotRequired[dict[str, Any]]


class WorkerDocument(TypedDict):
    """A worker in the status document."""

    pid: int
    etag: str
    last_reload: ReloadDocument | None


class ProblemCounts(TypedDict):
    """The exact numbers of problems; at most 100 problems are named."""

    error: int
    warning: int


class ServedDocument(TypedDict):
    """What a worker or the host serves."""

    etag: str
    state: str
    loaded_at: str
    counts: EndpointCounts
    complete: bool
    problem_counts: ProblemCounts
    problems: list[ProblemRecord]


class StatusDocument(ServedDocument):
    """The document that the status route answers with."""

    source: str
    last_reload: ReloadDocument | None
    history: list[HistoryEntry]
    watcher: WatcherRecord
    workers: list[WorkerDocument]
    health: HealthDocument | None
    reports: list[ReportedEndpoint] | None


def worker_record(
    pid: int,
    view: ServerState,
    watcher: WatcherRecord,
    notices: Iterable[Problem],
    figures: WorkerFigures,
    answered: AnswerRecord,
) -> WorkerRecord:
    """Make the record that a worker writes into the state folder.

    Args:
        pid: Process id of the worker.
        view: What the worker serves.
        watcher: How the worker notices changes of its source.
        notices: Problems of the process rather than of the source; they are listed first.
        figures: Figures for the gauges.
        answered: The last request to reload that the worker has answered.
    """
    snapshot = view.snapshot
    return {
        "pid": pid,
        "state": view.state.value,
        "etag": snapshot.etag,
        "loaded_at": snapshot.loaded_at,
        "counts": {"api": snapshot.api_count, "socketio": snapshot.socketio_count},
        "complete": view.complete,
        "problems": [problem.as_dict() for problem in (*notices, *view.problems)],
        "watcher": watcher,
        "history": [_event(reload) for reload in view.history],
        "figures": figures,
        "answered": answered,
    }


def noticed(worker: WorkerRecord, notice: Problem) -> WorkerRecord:
    """Add a problem that this worker has found to the record of another worker, unless it is there.

    The other record comes from a file that may be old, and the status may show its problems.
    """
    if any(problem["code"] == notice.code for problem in worker["problems"]):
        return worker
    figures = worker["figures"]
    return {
        **worker,
        "problems": [notice.as_dict(), *worker["problems"]],
        "figures": {**figures, "warnings": figures["warnings"] + 1},
    }


def _event(reload: Reload) -> ReloadRecord:
    event: ReloadRecord = {
        "at": reload.at,
        "moment": reload.moment,
        "trigger": reload.trigger.value,
        "result": reload.result.value,
        "error": reload.error,
        "duration_seconds": round(reload.duration, 6),
        "etag": reload.etag,
        "code": reload.code,
    }
    if reload.change is not None:
        event["change"] = reload.change._asdict()
    return event


def answer_record(number: int, reload: Reload | None) -> AnswerRecord:
    """Make the part of a worker's record that names the last request to reload it has answered."""
    return {"number": number, "reload": None if reload is None else _event(reload)}


def reload_report(workers: list[WorkerRecord], number: int) -> dict[str, Any]:
    """Return the document that ``POST /reload`` answers with.

    Args:
        workers: The record of each live worker that the request was passed to.
        number: The number of the request; see ``ReloadRequests``.

    Returns:
        ``result``, the worst result of all workers, or None if no worker has answered; what the
        worker with the worst result serves, and since when; each of the ``workers`` with its
        ``last_reload``, which is None while that worker has not answered; and the ``problems``
        of the worker with the worst result.
    """
    workers = _by_pid(workers)
    answers = [reload_for(worker, number) for worker in workers]
    given = [
        (worker, answer)
        for worker, answer in zip(workers, answers, strict=True)
        if answer is not None
    ]
    report: dict[str, Any] = {"result": None, "etag": None, "problems": []}
    if given:
        worst, answer = max(given, key=lambda pair: _RESULTS.index(Result(pair[1]["result"])))
        report |= {"result": answer["result"], **_served(worst)}
    report["workers"] = [
        {"pid": worker["pid"], "etag": worker["etag"], "last_reload": _reload(answer)}
        for worker, answer in zip(workers, answers, strict=True)
    ]
    return report


def _by_pid(workers: list[WorkerRecord]) -> list[WorkerRecord]:
    return sorted(workers, key=lambda worker: worker["pid"])


def _served(worker: WorkerRecord) -> ServedDocument:
    figures = worker["figures"]
    return {
        "etag": worker["etag"],
        "state": worker["state"],
        "loaded_at": rfc3339(worker["loaded_at"]),
        "counts": worker["counts"],
        "complete": worker["complete"],
        "problem_counts": {"error": figures["errors"], "warning": figures["warnings"]},
        "problems": worker["problems"],
    }


def host_status(
    source: str,
    workers: list[WorkerRecord],
    health: HealthDocument | None = None,
    reports: list[ReportedEndpoint] | None = None,
) -> StatusDocument:
    """Return the document that the status route answers with.

    Args:
        source: The source's name.
        workers: The record of each live worker; not empty.
        health: The results of the health checks, or None if no worker checks the endpoints.
        reports: What clients reported in the last hour, or None if reports are off.
    """
    history = merge_histories([worker["history"] for worker in workers])
    served = _served(worst_of(workers))
    served["complete"] = all(worker["complete"] for worker in workers)
    return {
        "source": source,
        **served,
        "last_reload": _reload(history[0]) if history else None,
        "history": [_entry(event) for event in history],
        "watcher": {
            "mode": _worst_mode([worker["watcher"]["mode"] for worker in workers]),
            "alive": all(worker["watcher"]["alive"] for worker in workers),
        },
        "workers": [
            {
                "pid": worker["pid"],
                "etag": worker["etag"],
                "last_reload": _reload(worker["history"][0] if worker["history"] else None),
            }
            for worker in _by_pid(workers)
        ],
        "health": health,
        "reports": reports,
    }


def readiness(view: ServerState, reason: str | None) -> dict[str, Any]:
    """Return the document that ``/ready`` answers with.

    Args:
        view: What this process serves.
        reason: Why the list is not up to date, or None if it is.
    """
    document = {"state": view.state.value, "reason": reason, "complete": view.complete}
    if view.complete:
        return document
    return {**document, "problem_counts": {"error": view.errors, "warning": view.warnings}}


def worst_of(workers: list[WorkerRecord]) -> WorkerRecord:
    """Return the worker with the worst state, which the status shows for the whole host.

    A worker that cannot follow its source must not be hidden by those that can.
    """
    return min(_by_pid(workers), key=lambda worker: _STATES.index(SourceState(worker["state"])))


def _worst_mode(modes: list[str]) -> str:
    return "poll" if "poll" in modes else modes[0]


def _reload(event: ReloadRecord | None) -> ReloadDocument | None:
    if event is None:
        return None
    return {
        "at": rfc3339(event["at"]),
        "trigger": event["trigger"],
        "result": event["result"],
        "error": event["error"],
        "duration_seconds": event["duration_seconds"],
    }


def _entry(event: ReloadRecord) -> HistoryEntry:
    entry: Any = {**event, "at": rfc3339(event["at"])}
    entry.pop("moment", None)
    shown: HistoryEntry = entry
    return shown


def _moment(event: ReloadRecord) -> float:
    return float(event.get("moment", event["at"]))


def merge_histories(histories: list[list[ReloadRecord]]) -> list[ReloadRecord]:
    """Merge the workers' histories, newest event first, with each event once.

    Every worker records the same edit for itself, moments apart. Reloads of different workers
    with the same result within ``SAME_EVENT`` seconds are one event, shown as the first worker
    recorded it. The monotonic clock gives the order, since the system's clock may be set back.
    """
    notes = [(event, worker) for worker, history in enumerate(histories) for event in history]
    merged: list[tuple[ReloadRecord, set[int]]] = []
    for event, worker in sorted(notes, key=lambda note: _moment(note[0])):
        for earlier, workers in merged:
            if worker not in workers and _same_event(earlier, event):
                workers.add(worker)
                break
        else:
            merged.append((event, {worker}))
    return [event for event, _ in reversed(merged)][:HISTORY]


def _same_event(earlier: ReloadRecord, later: ReloadRecord) -> bool:
    return _moment(later) - _moment(earlier) <= SAME_EVENT and (
        (later["result"], later["error"], later["etag"])
        == (earlier["result"], earlier["error"], earlier["etag"])
    )
