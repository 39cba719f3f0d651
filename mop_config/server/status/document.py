"""The status document of a host, made from the records of its workers, and its verdict. Pure.

Each worker keeps its record in the state folder (see ``state.directory``). The worker that answers
a request for the status merges all records, so that every worker gives the same answer.

The verdict is a list of findings for an operator, the worst first. The dashboard and
``mop-config status`` both use it, so that they never disagree.
"""

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from operator import itemgetter
from typing import Any, NamedTuple, TypedDict, cast

from ..monitor.reports import ReportedEndpoint
from ..monitor.schedule import MOST
from ..monitor.thread import HealthDocument
from ..parsing.problems import Code
from ..serving.store import (
    HistoryEntry,
    ReloadDocument,
    Result,
    ServedDocument,
    ServerState,
    SourceState,
)
from ..state.directory import WatcherRecord, WorkerRecord, reload_for
from .translations import Texts

_pid = itemgetter("pid")
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


def reload_report(workers: list[WorkerRecord], number: int) -> dict[str, Any]:
    """Return the document that ``POST /reload`` answers with.

    Args:
        workers: The record of each live worker that the request was passed to.
        number: The number of the request; see ``WorkerRegistry.request_reload``.

    Returns:
        ``result``, the worst result of all workers, or None if no worker has answered; what the
        worker with the worst result serves, and since when; each of the ``workers`` with its
        ``last_reload``, which is None while that worker has not answered; and the ``problems``
        of the worker with the worst result.
    """
    answers = [(each, reload_for(each, number)) for each in sorted(workers, key=_pid)]
    given = [(worker, answer) for worker, answer in answers if answer is not None]
    report: dict[str, Any] = {"result": None, "etag": None, "problems": []}
    if given:
        worst, answer = max(given, key=lambda pair: _RESULTS.index(Result(pair[1]["result"])))
        report |= {"result": answer["result"], **worst["served"]}
    report["workers"] = [_worker(worker, answer) for worker, answer in answers]
    return report


def _worker(worker: WorkerRecord, reload: HistoryEntry | None) -> WorkerDocument:
    etag = worker["served"]["etag"]
    return {"pid": worker["pid"], "etag": etag, "last_reload": _short(reload)}


def _document(worker: WorkerRecord) -> WorkerDocument:
    history = worker["history"]
    return _worker(worker, history[0] if history else None)


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
        health: The results of the health checks, or None if health checks are off.
        reports: What clients reported in the last hour, or None if reports are off.
    """
    worst = worst_of(workers)
    history = worst["history"]
    served = _with_settings_of_all(worst["served"].copy(), workers)
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
        "workers": [_document(worker) for worker in sorted(workers, key=_pid)],
        "health": health,
        "reports": reports,
    }


def _with_settings_of_all(served: ServedDocument, workers: list[WorkerRecord]) -> ServedDocument:
    """Add the warnings about settings that only other workers have, such as an unusable key."""
    problems, counts = [*served["problems"]], served["problem_counts"]
    for worker in workers:
        for problem in worker["served"]["problems"]:
            if problem["code"] == Code.SETTING and problem not in problems:
                problems.insert(0, problem)
    added = len(problems) - len(served["problems"])
    served["problem_counts"] = {**counts, "warning": counts["warning"] + added}
    served["problems"] = problems
    return served


def readiness(view: ServerState, reason: str | None) -> dict[str, Any]:
    """Return the document that ``/ready`` answers with.

    Args:
        view: What this process serves.
        reason: Why the list is not up to date, or None if it is.
    """
    counts = {"problem_counts": {"error": view.errors, "warning": view.warnings}}
    document = {"state": view.state.value, "reason": reason, "complete": view.complete}
    return document if view.complete else document | counts


def worst_of(workers: list[WorkerRecord]) -> WorkerRecord:
    """Return the worker with the worst state, which the status shows for the whole host.

    A worker that cannot follow its source must not be hidden by those that can. Among workers in
    the same state, the one with the most problems is the worst: only this process knows of trouble
    with the state folder if the other workers could not write it into their records. Among workers
    with equally many problems, one that serves the common list comes first (see ``common_etag``),
    since another worker may be stopped and serve an old list. After that, the lowest process id
    decides, which is nearly always that of the oldest worker: every worker records each edit for
    itself, but a new worker has not seen the earlier edits.
    """
    common = common_etag([_document(worker) for worker in workers])

    def rank(worker: WorkerRecord) -> tuple[int, int, bool, int]:
        served = worker["served"]
        problems = sum(served["problem_counts"].values())
        state = _STATES.index(SourceState(served["state"]))
        return state, -problems, served["etag"] != common, worker["pid"]

    return min(workers, key=rank)


def _short(entry: HistoryEntry | None) -> ReloadDocument | None:
    if entry is None:
        return None
    members = dict(entry)
    return cast(ReloadDocument, {name: members[name] for name in ReloadDocument.__annotations__})


# -- the verdict


class Level(StrEnum):
    """The level of a finding, the worst first."""

    BAD = "bad"
    WARN = "warn"
    GOOD = "good"


_LEVELS = list(Level)
_LEVEL_OF = {"fresh": Level.GOOD, "stale": Level.WARN}


class StatusFinding(NamedTuple):
    """One fact that an operator has to know.

    Attributes:
        level: The level.
        key: Key of the text; see ``translations.Texts``.
        values: The values in the text; ``n`` is the count that the text depends on.
    """

    level: Level
    key: str
    values: dict[str, Any]

    def say(self, texts: Texts) -> str:
        """Return the text of the finding.

        Args:
            texts: The texts of a language.
        """
        words = {"kind": "kind", "mode": "watcher"}
        values: dict[str, Any] = {
            name: texts.word(words[name], value) if name in words else value
            for name, value in self.values.items()
        }
        return texts(self.key, **values)


def verdict(status: StatusDocument) -> list[StatusFinding]:
    """Judge a status document.

    Returns:
        The findings, the worst first; only the state if all is well.
    """
    return sorted(_findings(status), key=lambda finding: _LEVELS.index(finding.level))


def _findings(status: StatusDocument) -> Iterator[StatusFinding]:
    state, counts = status["state"], status["counts"]
    yield StatusFinding(_LEVEL_OF.get(state, Level.BAD), f"state.{state}", {})
    if state != "empty" and not any(counts.values()):
        yield StatusFinding(Level.BAD, "verdict.nothing", {})
    yield from _of_the_endpoints(status)
    if dropped := dropped_entries(status):
        yield StatusFinding(Level.WARN, "verdict.dropped", {"n": dropped})
    if lines := sum(problem["code"] == Code.TOKENS_LINE for problem in status["problems"]):
        yield StatusFinding(Level.WARN, "verdict.tokens", {"n": lines})
    if pids := differing(status["workers"]):
        values = {"n": len(pids), "pids": ", ".join(map(str, pids))}
        yield StatusFinding(Level.WARN, "workers.differ", values)
    if not status["watcher"]["alive"]:
        yield StatusFinding(Level.WARN, "verdict.watcher_dead", {"mode": status["watcher"]["mode"]})


def _of_the_endpoints(status: StatusDocument) -> Iterator[StatusFinding]:
    health, counts = status["health"], status["counts"]
    if not health or not any(counts.values()):
        return
    if not health["alive"]:
        key = "verdict.probing_dead" if health["endpoints"] else "verdict.unprobed"
        yield StatusFinding(Level.WARN, key, {})
        return
    for kind, listed in counts.items():
        ups = [check["up"] for check in health["endpoints"] if check["kind"] == kind]
        # Down: each endpoint that is checked, at most MOST of a kind, is known to be down.
        if ups and ups == [False] * min(listed, MOST):
            yield StatusFinding(Level.BAD, "verdict.kind_down", {"kind": kind})
        elif failed := ups.count(False):
            values = {"n": failed, "all": f"{len(ups):,}", "kind": kind}
            yield StatusFinding(Level.WARN, "verdict.some_down", values)


def dropped_entries(status: StatusDocument) -> int:
    """Count the faulty entries that were left out; 0 if the whole text was refused."""
    errors = [problem for problem in status["problems"] if problem["severity"] == "error"]
    # A problem of the whole file quotes no entry. With these two, a list is served nevertheless.
    whole = [problem["code"] for problem in errors if not problem["text"]]
    if status["state"] == "empty" or not {Code.DETACHED, Code.LATE}.issuperset(whole):
        return 0
    return status["problem_counts"]["error"] - len(whole)


def common_etag(workers: list[WorkerDocument]) -> str:
    """Return the ETag that most workers serve; a tie goes to the list of the newest reload."""
    newest = sorted(workers, key=_reloaded_at, reverse=True)
    return str(Counter(worker["etag"] for worker in newest).most_common(1)[0][0])


def _reloaded_at(worker: WorkerDocument) -> str:
    return worker["last_reload"]["at"] if worker["last_reload"] else ""


def differing(workers: list[WorkerDocument]) -> list[int]:
    """Return the process ids of the workers that serve another list than most workers."""
    common = common_etag(workers)
    return [worker["pid"] for worker in workers if worker["etag"] != common]
