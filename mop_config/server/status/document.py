"""The status document of a host, made from the records of its workers. Pure.

Each worker keeps its record in the state folder (see ``state.workers``). The worker that answers
a request for the status merges all records, so that every worker gives the same answer.
"""

from typing import Any, TypedDict

from ..monitor.reports import ReportedEndpoint
from ..monitor.results import HealthDocument
from ..parsing.problems import Problem
from ..serving.store import HISTORY, Result, ServerState, SourceState
from ..state.workers import (
    HistoryEntry,
    ReloadDocument,
    ReloadRecord,
    ServedDocument,
    WatcherRecord,
    WorkerRecord,
    reload_for,
)

#: Seconds within which the same result in several workers counts as one event.
SAME_EVENT = 2.0

#: Results from the best to the worst: the worst of all workers is the result of a reload.
_RESULTS = [Result.UNCHANGED, Result.APPLIED, Result.REJECTED, Result.ERROR]
#: States from the worst to the best: the status shows the state of the worst worker.
_STATES = [SourceState.EMPTY, SourceState.REJECTED, SourceState.STALE, SourceState.FRESH]


class WorkerDocument(TypedDict):
    """A worker in the status document."""

    pid: int
    etag: str
    last_reload: ReloadDocument | None


class StatusDocument(ServedDocument):
    """The document that the status route answers with."""

    source: str
    last_reload: ReloadDocument | None
    history: list[HistoryEntry]
    watcher: WatcherRecord
    workers: list[WorkerDocument]
    health: HealthDocument | None
    reports: list[ReportedEndpoint] | None


def noticed(worker: WorkerRecord, notice: Problem) -> WorkerRecord:
    """Add a warning of this worker to the record of another worker, unless it is there.

    The other record comes from a file that may be old, and the status may show its problems.
    """
    served = worker["served"]
    if any(problem["code"] == notice.code for problem in served["problems"]):
        return worker
    counts = served["problem_counts"]
    served = {
        **served,
        "problems": [notice.as_dict(), *served["problems"]],
        "problem_counts": {**counts, "warning": counts["warning"] + 1},
    }
    return {**worker, "served": served}


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
    answers = [(worker, reload_for(worker, number)) for worker in _by_pid(workers)]
    given = [(worker, answer) for worker, answer in answers if answer is not None]
    report: dict[str, Any] = {"result": None, "etag": None, "problems": []}
    if given:
        worst, answer = max(given, key=lambda pair: _RESULTS.index(Result(pair[1]["result"])))
        report |= {"result": answer["result"], **worst["served"]}
    report["workers"] = [_worker(worker, answer) for worker, answer in answers]
    return report


def _by_pid(workers: list[WorkerRecord]) -> list[WorkerRecord]:
    return sorted(workers, key=lambda worker: worker["pid"])


def _worker(worker: WorkerRecord, reload: HistoryEntry | None) -> WorkerDocument:
    etag = worker["served"]["etag"]
    return {"pid": worker["pid"], "etag": etag, "last_reload": _short(reload)}


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
    served = worst_of(workers)["served"].copy()
    served["complete"] = all(worker["served"]["complete"] for worker in workers)
    watchers = [worker["watcher"] for worker in workers]
    polls = any(watcher["mode"] == "poll" for watcher in watchers)
    return {
        "source": source,
        **served,
        "last_reload": _short(history[0] if history else None),
        "history": history,
        "watcher": {
            "mode": "poll" if polls else watchers[0]["mode"],
            "alive": all(watcher["alive"] for watcher in watchers),
        },
        "workers": [
            _worker(worker, worker["history"][0]["entry"] if worker["history"] else None)
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
    return min(_by_pid(workers), key=lambda w: _STATES.index(SourceState(w["served"]["state"])))


def _short(entry: HistoryEntry | None) -> ReloadDocument | None:
    if entry is None:
        return None
    return {
        "at": entry["at"],
        "trigger": entry["trigger"],
        "result": entry["result"],
        "error": entry["error"],
        "duration_seconds": entry["duration_seconds"],
    }


def merge_histories(histories: list[list[ReloadRecord]]) -> list[HistoryEntry]:
    """Merge the workers' histories, newest event first, with each event once.

    Every worker records the same edit for itself, moments apart. Reloads of different workers
    with the same result within ``SAME_EVENT`` seconds are one event, shown as the first worker
    recorded it. The monotonic clock gives the order, since the system's clock may be set back.
    """
    notes = [(event, worker) for worker, history in enumerate(histories) for event in history]
    merged: list[tuple[ReloadRecord, set[int]]] = []
    for event, worker in sorted(notes, key=lambda note: note[0]["moment"]):
        for earlier, workers in merged:
            if worker not in workers and _is_same(earlier, event):
                workers.add(worker)
                break
        else:
            merged.append((event, {worker}))
    return [event["entry"] for event, _ in reversed(merged)][:HISTORY]


def _is_same(earlier: ReloadRecord, later: ReloadRecord) -> bool:
    one, other = earlier["entry"], later["entry"]
    return later["moment"] - earlier["moment"] <= SAME_EVENT and (
        (other["result"], other["error"], other["etag"])
        == (one["result"], one["error"], one["etag"])
    )
