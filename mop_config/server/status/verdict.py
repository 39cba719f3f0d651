"""The verdict on a status document: findings for an operator, the worst first. Pure.

The dashboard and ``mop-config status`` both use it, so that they never disagree.
"""

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from ...model.endpoint import Kind
from ..monitor.results import HealthDocument
from ..monitor.schedule import MOST
from ..parsing.problems import Code, ProblemRecord
from ..state.workers import EndpointCounts
from .document import StatusDocument, WorkerDocument
from .translations import Texts


class Level(StrEnum):
    """The level of a finding, the worst first."""

    BAD = "bad"
    WARN = "warn"
    GOOD = "good"


_LEVELS = list(Level)
_STATES = {"fresh": Level.GOOD, "stale": Level.WARN}


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
    found = [*_of_the_list(status), *_of_the_process(status)]
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))


def _of_the_list(status: StatusDocument) -> Iterator[StatusFinding]:
    state = str(status["state"])
    yield StatusFinding(_STATES.get(state, Level.BAD), f"state.{state}", {})
    counts = status["counts"]
    if state != "empty" and not counts["api"] + counts["socketio"]:
        yield StatusFinding(Level.BAD, "verdict.nothing", {})
    yield from _of_the_endpoints(status["health"], status["counts"])
    if dropped := dropped_entries(status):
        yield StatusFinding(Level.WARN, "verdict.dropped", {"n": dropped})


def _of_the_endpoints(
    health: HealthDocument | None, counts: EndpointCounts
) -> Iterator[StatusFinding]:
    listed = {Kind.API.value: counts["api"], Kind.SOCKETIO.value: counts["socketio"]}
    if not health or not any(listed.values()):
        return
    if not health["alive"]:
        key = "verdict.probing_dead" if health["endpoints"] else "verdict.unprobed"
        yield StatusFinding(Level.WARN, key, {})
        return
    down = kinds_down(health, counts)
    if down and all(kind in down or not count for kind, count in listed.items()):
        yield StatusFinding(Level.BAD, "verdict.none_up", {})
        return
    for kind in down:
        yield StatusFinding(Level.BAD, "verdict.kind_down", {"kind": kind})
    others = [endpoint for endpoint in health["endpoints"] if endpoint["kind"] not in down]
    if failed := sum(endpoint["up"] is False for endpoint in others):
        values: dict[str, Any] = {"n": failed, "all": f"{len(others):,}"}
        if down:
            values["kind"] = others[0]["kind"]
        key = "verdict.some_of_kind_down" if down else "verdict.some_down"
        yield StatusFinding(Level.WARN, key, values)


def _of_the_process(status: StatusDocument) -> Iterator[StatusFinding]:
    if pids := differing(status["workers"]):
        values = {"n": len(pids), "pids": ", ".join(map(str, pids))}
        yield StatusFinding(Level.WARN, "workers.differ", values)
    if not status["watcher"]["alive"]:
        yield StatusFinding(Level.WARN, "verdict.watcher_dead", {"mode": status["watcher"]["mode"]})
    if lines := _token_lines(status["problems"]):
        yield StatusFinding(Level.WARN, "verdict.tokens", {"n": lines})


def kinds_down(health: HealthDocument | None, counts: EndpointCounts) -> list[str]:
    """Return the kinds of which every endpoint that is checked is known to be down.

    Args:
        health: The member ``health`` of the status document.
        counts: Its member ``counts``.
    """
    endpoints = health["endpoints"] if health else []
    down = []
    for kind, listed in ((Kind.API, counts["api"]), (Kind.SOCKETIO, counts["socketio"])):
        ups = [endpoint["up"] for endpoint in endpoints if endpoint["kind"] == kind]
        if ups and ups == [False] * min(listed, MOST):
            down.append(kind.value)
    return down


def dropped_entries(status: StatusDocument) -> int:
    """Count the faulty entries that were left out; 0 if the whole text was refused."""
    problems = status["problems"]
    if status["state"] == "empty" or any(_refuses(problem) for problem in problems):
        return 0
    return status["problem_counts"]["error"] - _token_lines(problems)


def _refuses(problem: ProblemRecord) -> bool:
    # A problem of the whole file quotes no entry.
    whole = problem["severity"] == "error" and not problem["text"]
    return whole and problem["code"] != Code.TOKENS_LINE


def _token_lines(problems: list[ProblemRecord]) -> int:
    return sum(problem["code"] == Code.TOKENS_LINE for problem in problems)


def common_etag(workers: list[WorkerDocument]) -> str:
    """Return the ETag that most workers serve."""
    return str(Counter(worker["etag"] for worker in workers).most_common(1)[0][0])


def differing(workers: list[WorkerDocument]) -> list[int]:
    """Return the process ids of the workers that serve another list than most workers."""
    common = common_etag(workers)
    return [worker["pid"] for worker in workers if worker["etag"] != common]
