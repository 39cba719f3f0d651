"""The status document of a host, made from the records of its workers. Pure.

Each worker keeps its record in the state folder (see ``state.workers``). The worker that answers
a request for the status merges all records, so that every worker gives the same answer.
"""

from collections.abc import Iterable
from typing import Any

from ...model.codec import rfc3339
from ..monitor.results import HealthDocument
from ..parsing.problems import Problem
from ..serving.store import HISTORY, Reload, Result, ServerState, SourceState
from ..state.worker_record import (
    AnswerRecord,
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
    workers = sorted(workers, key=lambda worker: int(worker["pid"]))
    answers = [(worker, reload_for(worker, number)) for worker in workers]
    given = [(worker, answer) for worker, answer in answers if answer is not None]
    worst = max(given, key=lambda pair: _RESULTS.index(Result(pair[1]["result"])), default=None)
    return {
        "result": worst[1]["result"] if worst else None,
        "etag": worst[0]["etag"] if worst else None,
        **(_served(worst[0]) if worst else {}),
        "workers": [
            {"pid": worker["pid"], "etag": worker["etag"], "last_reload": _reload(answer)}
            for worker, answer in answers
        ],
        "problems": worst[0]["problems"] if worst else [],
    }


def _served(worker: WorkerRecord) -> dict[str, Any]:
    figures = worker["figures"]
    return {
        "state": worker["state"],
        "loaded_at": rfc3339(worker["loaded_at"]),
        "counts": worker["counts"],
        "complete": worker["complete"],
        "problem_counts": _exact(figures["errors"], figures["warnings"]),
    }


def host_status(
    source: str, workers: list[WorkerRecord], health: HealthDocument | None = None
) -> dict[str, Any]:
    """Return the document that the status route answers with.

    Args:
        source: The source's name.
        workers: The record of each live worker; not empty.
        health: The results of the health checks, or None if no worker checks the endpoints.
    """
    workers = sorted(workers, key=lambda worker: int(worker["pid"]))
    worst = worst_of(workers)
    history = merge_histories([worker["history"] for worker in workers])
    return {
        "source": source,
        "etag": worst["etag"],
        **_served(worst),
        "complete": all(worker["complete"] for worker in workers),
        "problems": worst["problems"],
        "last_reload": _last_reload(history),
        "history": [_shown(event) for event in history],
        "watcher": {
            "mode": _worst_mode([worker["watcher"]["mode"] for worker in workers]),
            "alive": all(worker["watcher"]["alive"] for worker in workers),
        },
        "workers": [
            {
                "pid": worker["pid"],
                "etag": worker["etag"],
                "last_reload": _last_reload(worker["history"]),
            }
            for worker in workers
        ],
        "health": health,
    }


def _exact(errors: int, warnings: int) -> dict[str, int]:
    """Return the exact numbers of problems in the form that ``/ready`` and the status show."""
    return {"error": errors, "warning": warnings}


def readiness(view: ServerState, reason: str | None) -> dict[str, Any]:
    """Return the document that ``/ready`` answers with.

    Args:
        view: What this process serves.
        reason: Why the list is not up to date, or None if it is.
    """
    document = {"state": view.state.value, "reason": reason, "complete": view.complete}
    if view.complete:
        return document
    return {**document, "problem_counts": _exact(view.errors, view.warnings)}


def worst_of(workers: list[WorkerRecord]) -> WorkerRecord:
    """Return the worker with the worst state, which the status shows for the whole host.

    A worker that cannot follow its source must not be hidden by those that can.
    """
    return min(
        sorted(workers, key=lambda worker: int(worker["pid"])),
        key=lambda worker: _STATES.index(SourceState(worker["state"])),
    )


def _worst_mode(modes: list[str]) -> str:
    return "poll" if "poll" in modes else modes[0]


def _last_reload(history: list[ReloadRecord]) -> dict[str, Any] | None:
    return _reload(history[0] if history else None)


def _reload(event: ReloadRecord | None) -> dict[str, Any] | None:
    if event is None:
        return None
    return {
        "at": rfc3339(event["at"]),
        "trigger": event["trigger"],
        "result": event["result"],
        "error": event["error"],
        "duration_seconds": event["duration_seconds"],
    }


def _shown(event: ReloadRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {**event, "at": rfc3339(event["at"])}
    shown.pop("moment", None)
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
