"""What a status document amounts to: findings for an operator, the worst one first. Pure.

The dashboard and ``mop-config status`` both judge by it, so that they never disagree.
"""

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from ..monitor.schedule import MOST


class Level(StrEnum):
    """How bad a finding is, the worst one first."""

    BAD = "bad"
    WARN = "warn"
    GOOD = "good"


_LEVELS = list(Level)
_STATES = {"fresh": Level.GOOD, "stale": Level.WARN}
_TOKENS_LINE = "token-line"


class StatusFinding(NamedTuple):
    """One thing that an operator has to know.

    Attributes:
        level: How bad it is.
        key: Key of its text; see ``translations.Texts``.
        values: What the text names; ``n`` is what it counts.
    """

    level: Level
    key: str
    values: dict[str, Any]

    def say(self, texts: Any) -> str:
        """Give the finding's text.

        Args:
            texts: The texts of a language, also for the words of the status document.
        """
        words = {"kind": "kind", "mode": "watcher"}
        values = {
            name: texts.word(words[name], value) if name in words else value
            for name, value in self.values.items()
        }
        return str(texts(self.key, **values))


def verdict(status: dict[str, Any]) -> list[StatusFinding]:
    """Judge a status document.

    Returns:
        The findings, the worst one first; the state alone where all is well.
    """
    found = [*_of_the_list(status), *_of_the_process(status)]
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))


def _of_the_list(status: dict[str, Any]) -> Iterator[StatusFinding]:
    state = str(status["state"])
    yield StatusFinding(_STATES.get(state, Level.BAD), f"state.{state}", {})
    if state != "empty" and not sum(status["counts"].values()):
        yield StatusFinding(Level.BAD, "verdict.nothing", {})
    yield from _of_the_endpoints(status["health"], status["counts"])
    if dropped := dropped_entries(status):
        yield StatusFinding(Level.WARN, "verdict.dropped", {"n": dropped})


def _of_the_endpoints(
    health: dict[str, Any] | None, counts: dict[str, int]
) -> Iterator[StatusFinding]:
    if not health or not sum(counts.values()):
        return
    if not health["alive"]:
        key = "verdict.probing_dead" if health["endpoints"] else "verdict.unprobed"
        yield StatusFinding(Level.WARN, key, {})
        return
    down = kinds_down(health, counts)
    if down and all(kind in down or not count for kind, count in counts.items()):
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


def _of_the_process(status: dict[str, Any]) -> Iterator[StatusFinding]:
    if pids := differing(status["workers"]):
        values = {"n": len(pids), "pids": ", ".join(map(str, pids))}
        yield StatusFinding(Level.WARN, "workers.differ", values)
    if not status["watcher"]["alive"]:
        yield StatusFinding(Level.WARN, "verdict.watcher_dead", {"mode": status["watcher"]["mode"]})
    if lines := _token_lines(status["problems"]):
        yield StatusFinding(Level.WARN, "verdict.tokens", {"n": lines})


def kinds_down(health: dict[str, Any] | None, counts: dict[str, int]) -> list[str]:
    """Return the kinds of which every endpoint that is checked is known to be down.

    Args:
        health: The member ``health`` of the status document.
        counts: Its member ``counts``.
    """
    ups: dict[str, list[bool | None]] = {}
    for endpoint in health["endpoints"] if health else ():
        ups.setdefault(endpoint["kind"], []).append(endpoint["up"])
    return [kind for kind, known in ups.items() if known == [False] * min(counts[kind], MOST)]


def dropped_entries(status: dict[str, Any]) -> int:
    """Count the faulty entries without which the list is served; 0 where a text was refused."""
    problems = status["problems"]
    if status["state"] == "empty" or any(_refuses(problem) for problem in problems):
        return 0
    return problem_counts(status)["error"] - _token_lines(problems)


def problem_counts(status: dict[str, Any]) -> dict[str, int]:
    """Give the exact numbers; of an older server those of the problems that it names."""
    severities = Counter(problem["severity"] for problem in status["problems"])
    counted = {name: severities[name] for name in ("error", "warning")}
    return {**counted, **status.get("problem_counts", {})}


def _refuses(problem: dict[str, Any]) -> bool:
    # A problem of the file as a whole quotes no entry.
    whole = problem["severity"] == "error" and not problem["text"]
    return whole and problem.get("code") != _TOKENS_LINE


def _token_lines(problems: list[dict[str, Any]]) -> int:
    return sum(problem.get("code") == _TOKENS_LINE for problem in problems)


def common_etag(workers: list[dict[str, Any]]) -> str:
    """Give the list that most workers serve."""
    return str(Counter(worker["etag"] for worker in workers).most_common(1)[0][0])


def differing(workers: list[dict[str, Any]]) -> list[int]:
    """Give the process ids of the workers that do not serve what most serve."""
    common = common_etag(workers)
    return [worker["pid"] for worker in workers if worker["etag"] != common]
