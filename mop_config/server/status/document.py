"""What the workers of a host say of themselves, and the one picture that makes. Pure.

Whichever worker is asked, the answer speaks for all of them: each keeps its own state in
a small file (see ``hoststate``), and the one that is asked puts the files together.
"""

from collections.abc import Iterable
from typing import Any

from ...model.codec import rfc3339
from ..parsing.problems import Problem
from ..serving.store import HISTORY, Reload, Result, ServerState, SourceState

#: Seconds within which the same outcome in several workers counts as one event.
SAME_EVENT = 2.0

# The worst first: what an operator has to know about.
_BADNESS = [Result.UNCHANGED, Result.APPLIED, Result.REJECTED, Result.ERROR]
_SEVERITY = [SourceState.EMPTY, SourceState.REJECTED, SourceState.STALE, SourceState.FRESH]

WorkerState = dict[str, Any]


def worker_state(
    pid: int, view: ServerState, watcher: dict[str, Any], notices: Iterable[Problem]
) -> WorkerState:
    """Put a worker's state into the form that is kept in its file.

    ``notices`` are findings about the process rather than the file; they come first.
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
    }


def noticed(worker: WorkerState, notice: Problem) -> WorkerState:
    """Add a finding of the worker that is asked to what another says, unless that has it.

    What it says comes from a file that may be old, and it may be the one that speaks for all.
    """
    if any(problem["code"] == notice.code for problem in worker["problems"]):
        return worker
    figures = worker["figures"]
    return {
        **worker,
        "problems": [notice.as_dict(), *worker["problems"]],
        "figures": {**figures, "warnings": figures["warnings"] + 1},
    }


def _event(reload: Reload) -> dict[str, Any]:
    event: dict[str, Any] = {
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


def answer_state(number: int, reload: Reload | None) -> dict[str, Any]:
    """Put which request to reload a worker has answered last into its state's form."""
    return {"number": number, "reload": None if reload is None else _event(reload)}


def reload_report(workers: list[WorkerState], number: int) -> dict[str, Any]:
    """Say what came of a request to reload.

    Args:
        workers: The state of each live worker that was asked.
        number: The request's.

    Returns:
        ``result``, the worst of the workers', or None where none has answered; what the worker
        with the worst result serves, and since when; each of the ``workers`` with its
        ``last_reload``, which is None where it has not answered; and the ``problems`` of the
        worker with the worst result.
    """
    workers = sorted(workers, key=lambda worker: int(worker["pid"]))
    answers = [(worker, _answer(worker, number)) for worker in workers]
    given = [(worker, answer) for worker, answer in answers if answer is not None]
    worst = max(given, key=lambda pair: _BADNESS.index(pair[1]["result"]), default=None)
    return {
        "result": worst[1]["result"] if worst else None,
        "etag": worst[0]["etag"] if worst else None,
        **(_served(worst[0]) if worst else {}),
        "workers": [
            {"pid": worker["pid"], "etag": worker["etag"], "last_reload": answer}
            for worker, answer in answers
        ],
        "problems": worst[0]["problems"] if worst else [],
    }


def _served(worker: WorkerState) -> dict[str, Any]:
    figures = worker["figures"]
    return {
        "state": worker["state"],
        "loaded_at": rfc3339(worker["loaded_at"]),
        "counts": worker["counts"],
        "complete": worker["complete"],
        "problem_counts": _exact(figures["errors"], figures["warnings"]),
    }


def _answer(worker: WorkerState, number: int) -> dict[str, Any] | None:
    answered = worker.get("answered") or {"number": 0}
    if answered["number"] < number:
        return None
    # A worker that is younger than the request has read the source at its start.
    return _last_reload([answered["reload"]] if answered["reload"] else worker["history"])


def host_status(
    source: str, workers: list[WorkerState], health: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Give the document that the status route answers with.

    Args:
        source: The source's name.
        workers: The state of each live worker; not empty.
        health: What the worker that checks the endpoints has found, or None where none does.
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
    """Put the exact numbers of problems into the form that ``/ready`` and the status show."""
    return {"error": errors, "warning": warnings}


def readiness(view: ServerState, reason: str | None) -> dict[str, Any]:
    """Give the document that ``/ready`` answers with.

    Args:
        view: What this process serves.
        reason: Why the process cannot follow its source, or None.
    """
    document = {"state": view.state.value, "reason": reason, "complete": view.complete}
    if view.complete:
        return document
    return {**document, "problem_counts": _exact(view.errors, view.warnings)}


def worst_of(workers: list[WorkerState]) -> WorkerState:
    """Find the worker that speaks for the host: one that cannot follow must not hide."""
    return min(
        sorted(workers, key=lambda worker: int(worker["pid"])),
        key=lambda worker: _SEVERITY.index(SourceState(worker["state"])),
    )


def _worst_mode(modes: list[str]) -> str:
    return "poll" if "poll" in modes else modes[0]


def _last_reload(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not history:
        return None
    newest = history[0]
    return {
        "at": rfc3339(newest["at"]),
        "trigger": newest["trigger"],
        "result": newest["result"],
        "error": newest["error"],
        "duration_seconds": newest["duration_seconds"],
    }


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    shown = {**event, "at": rfc3339(event["at"])}
    shown.pop("moment", None)
    return shown


def _moment(event: dict[str, Any]) -> float:
    return float(event.get("moment", event["at"]))


def merge_histories(histories: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Put the workers' histories together, newest first, telling each event once.

    Every worker notes the same edit for itself, moments apart: outcomes of different
    workers that agree within two seconds are one event, told as the first worker saw it. Their
    order is that of the monotonic clock: dates go back where the system's clock is set back.
    """
    notes = [(event, worker) for worker, history in enumerate(histories) for event in history]
    told: list[tuple[dict[str, Any], set[int]]] = []
    for event, worker in sorted(notes, key=lambda note: _moment(note[0])):
        for earlier, workers in told:
            if worker not in workers and _same_event(earlier, event):
                workers.add(worker)
                break
        else:
            told.append((event, {worker}))
    return [event for event, _ in reversed(told)][:HISTORY]


def _same_event(earlier: dict[str, Any], later: dict[str, Any]) -> bool:
    return _moment(later) - _moment(earlier) <= SAME_EVENT and all(
        later[key] == earlier[key] for key in ("result", "error", "etag")
    )
