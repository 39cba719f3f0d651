"""The CPU time of an answer, beside bare WSGI, the guide's design and other servers."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from mop_config.server.parsing.builder import UrlRules
from mop_config.server.parsing.render import EMPTY_BODY, render

from .load import CONNECTIONS, LOAD_CORE, SERVER_CORE, Spent, available, which
from .peers import (
    FLOOR,
    GUIDE,
    LIMIT,
    MIRROR,
    MISSING,
    OURS,
    PRESENT,
    UVICORNS,
    WORKER_CLASSES,
    Contestant,
    Peer,
    Site,
)
from .reload import text
from .report import Report, median, options

ROUNDS = 7
#: Number of direct comparisons of our server with the floor: their difference is smaller than
#: the time that a busy host can take from a server within a second.
DUELS = 25
SIZES = (6, 100, 10_000)
#: Maximum ratio of our CPU time per answer to the floor's.
GOALS = {"200": 1.15, "304": 1.1}

Rounds = dict[Contestant, list[Spent]]


@contextlib.contextmanager
def _all_running(entries: int) -> Iterator[dict[Contestant, Peer]]:
    """Run every server on a list of that size, and check that every server serves it."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        file = Path(name) / "endpoints.txt"
        file.write_text(text(entries))
        body = render(file.read_bytes(), UrlRules(), EMPTY_BODY).body
        site = Site(Path(name), file, body)
        peers = {each: stack.enter_context(each.run(site)) for each in PRESENT}
        for contestant, peer in peers.items():
            if peer.body != body:
                raise RuntimeError(f"{contestant.name} serves something else: {peer.body[:200]!r}")
        yield peers


def _rounds(peers: dict[Contestant, Peer], answer: str, rounds: int) -> Rounds:
    """Load the servers in turn."""
    order = [each for each, peer in peers.items() if answer == "200" or peer.conditional]
    return _ask(peers, order, answer, rounds)


def _duels(peers: dict[Contestant, Peer], answer: str, rounds: int) -> Rounds:
    """Load our server and the floor alternately."""
    order = [each for each in peers if each.name in {OURS, FLOOR}]
    return _ask(peers, order, answer, rounds)


def _ask(
    peers: dict[Contestant, Peer], order: list[Contestant], answer: str, rounds: int
) -> Rounds:
    """Load the servers in order and in reverse order, so that no position has an advantage."""
    found: Rounds = {each: [] for each in order}
    for number in range(rounds):
        for contestant in order if number % 2 == 0 else reversed(order):
            # The guide's server answers few large lists per second.
            seconds = 3 if contestant.name == GUIDE and rounds > 1 else 1
            found[contestant].append(peers[contestant].ask(seconds, known=answer == "304"))
    return found


def _times(ones: list[Spent], others: list[Spent]) -> float:
    """Return the median over the rounds of the ratio of CPU times."""
    return median([one.cpu_us / other.cpu_us for one, other in zip(ones, others, strict=True)])


def _of(found: Rounds, name: str, worker: str) -> list[Spent]:
    return next(
        spent for each, spent in found.items() if each.name == name and each.worker == worker
    )


def answers(quick: bool) -> Iterator[Report]:
    """Measure every server at every size, and then our ratios."""
    rounds, duels = (1, 1) if quick else (ROUNDS, DUELS)
    costs = Report("serve: an answer", _note(rounds))
    ratios = Report(
        "serve: ratios",
        "CPU per request beside others' in the same run: median of the ratios of the rounds"
        f" ({rounds}, and {duels} of ours and the floor alone), with the least and the largest."
        " Goals: at most 1.15 times the floor for a 200 and 1.1"
        " times for a 304; the guide's design at least 1.8 times ours at 6 entries and 100 times"
        " at 10,000, on our faster worker class; a mirror at least 0.95 times nginx's static file.",
    )
    for entries in (6, 10_000) if quick else SIZES:
        with _all_running(entries) as peers:
            for answer in GOALS:
                found = _rounds(peers, answer, rounds)
                for contestant, spent in found.items():
                    costs.add(**_row(entries, answer, contestant, spent))
                _compare(ratios, entries, answer, found, _duels(peers, answer, duels))
    yield costs
    yield ratios


def _row(
    entries: int, answer: str, contestant: Contestant, spent: list[Spent]
) -> dict[str, object]:
    medians = [median(values) for values in zip(*spent, strict=True)]
    names = ("requests_s", "p50_ms", "p99_ms", "cpu_us")
    return {
        "entries": entries,
        "answer": answer,
        "server": contestant.name,
        "worker": contestant.worker,
        **dict(zip(names, medians, strict=True)),
    }


def _compare(report: Report, entries: int, answer: str, found: Rounds, duels: Rounds) -> None:
    def add(
        what: str, worker: str, ones: list[Spent], others: list[Spent], goal: str, held: bool
    ) -> None:
        each = [one.cpu_us / other.cpu_us for one, other in zip(ones, others, strict=True)]
        report.add(
            entries=entries,
            answer=answer,
            ratio=what,
            worker=worker,
            times=median(each),
            least=min(each),
            largest=max(each),
            goal=goal,
            held="yes" if held else "no",
        )

    for worker in WORKER_CLASSES:
        ones, others = _of(duels, OURS, worker), _of(duels, FLOOR, worker)
        held = _times(ones, others) <= GOALS[answer]
        add("ours / the floor", worker, ones, others, f"<= {GOALS[answer]}", held)
    if answer == "200":
        faster = min(
            WORKER_CLASSES, key=lambda each: median([s.cpu_us for s in _of(found, OURS, each)])
        )
        others = _of(found, OURS, faster)
        least = {6: 1.8, 10_000: 100.0}.get(entries, 1.0)
        for uvicorn in UVICORNS:
            ones = _of(found, GUIDE, uvicorn)
            what = f"the guide's on {uvicorn} / ours"
            add(what, faster, ones, others, f">= {least:g}", _times(ones, others) >= least)
    if any(each.name == MIRROR for each in found):
        ones, others = _of(found, LIMIT, ""), _of(found, MIRROR, "")
        add(
            "nginx, static file / a mirror",
            "",
            ones,
            others,
            ">= 0.95",
            _times(ones, others) >= 0.95,
        )


def _note(rounds: int) -> str:
    note = (
        f"Every server has one process for requests, on core {SERVER_CORE}; the load is wrk's"
        f" with {CONNECTIONS} connections, on core {LOAD_CORE}. Medians of {rounds} rounds with"
        " every server in each, in turn. CPU is the processor time of all the server's"
        " processes, by the system's account, in microseconds a request. A 304 goes to clients"
        " that send the tag that they were given; the guide's design, etcd and Redis know no"
        " such answer. All but nginx, etcd and Redis are Python; a sync worker closes every"
        " connection. Redis is asked by redis-benchmark, in its own protocol. "
    )
    note += ", ".join(f"{name} {number}" for name, number in _versions().items()) + "."
    if MISSING:
        note += f" Not installed here, so left out: {', '.join(MISSING)}."
    return note


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("fastapi", "uvicorn")}
    programs = {"wrk": "-v", "nginx": "-v", "etcd": "--version", "redis-server": "--version"}
    for name, option in programs.items():
        if available(name):
            done = subprocess.run([which(name) or name, option], capture_output=True, text=True)
            number = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
            found[name] = number[0] if number else "of an unknown version"
    return found


def reports(quick: bool) -> Iterator[Report]:
    """Run all benchmarks of this file."""
    if not available("wrk", "taskset"):
        left_out = Report("serve: an answer", "Left out: it needs wrk and taskset.")
        yield left_out
        return
    yield from answers(quick)


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
