"""The CPU time of an answer, beside raw applications, the guide's design and other servers."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from mop_config.server.parsing.render import EMPTY_BODY, render
from mop_config.server.settings import UrlRules

from .load import CONNECTIONS, LOAD_CORE, SERVER_CORE, Spent, available, which
from .peers import GUIDE, MISSING, NGINX, PRESENT, Contestant, Peer, Site
from .reload import text
from .report import Report, median, options

ROUNDS = 15
SIZES = (6, 100, 10_000)
#: Maximum ratio of our cost to another server's, by entries, answer, and the server's name and
#: worker class.
GOALS = {
    (6, "200", "raw ASGI", "asgi"): 1.2,
    (6, "200", "bare WSGI", "gthread"): 0.28,
    (6, "304", "bare WSGI", "gthread"): 0.22,
    (6, "200", NGINX, ""): 3.5,
    (6, "200", GUIDE, "uvicorn[standard]"): 0.25,
}

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


def _ask(peers: dict[Contestant, Peer], answer: str, rounds: int) -> Rounds:
    """Load the servers in order and in reverse order, so that no position has an advantage."""
    order = [each for each, peer in peers.items() if answer == "200" or peer.conditional]
    found: Rounds = {each: [] for each in order}
    for number in range(rounds):
        for contestant in order if number % 2 == 0 else reversed(order):
            # The guide's server answers few large lists per second.
            seconds = 3 if contestant.name == GUIDE and rounds > 1 else 1
            found[contestant].append(peers[contestant].ask(seconds, known=answer == "304"))
    return found


def _row(
    entries: int, answer: str, contestant: Contestant, spent: list[Spent], ours: list[Spent]
) -> dict[str, object]:
    medians = [median(values) for values in zip(*spent, strict=True)]
    ratio = median([one.cpu_us / other.cpu_us for one, other in zip(ours, spent, strict=True)])
    goal = GOALS.get((entries, answer, contestant.name, contestant.worker))
    return {
        "entries": entries,
        "answer": answer,
        "server": contestant.name,
        "worker": contestant.worker,
        **dict(zip(("requests_s", "p50_ms", "p99_ms", "cpu_us"), medians, strict=True)),
        "ratio": ratio,
        "goal": goal or "",
        "held": "" if goal is None else "yes" if ratio <= goal else "no",
    }


def _note(rounds: int) -> str:
    note = (
        f"Every server has one process for requests, on core {SERVER_CORE}; the load is wrk's"
        f" with {CONNECTIONS} connections, on core {LOAD_CORE}. Medians of {rounds} rounds with"
        " every server in each, in turn. CPU is the processor time of all the server's"
        " processes, by the system's account, in microseconds a request. Ratio is our default"
        " worker's CPU beside that server's, the median of the rounds' ratios. A 304 goes to"
        " clients that send the tag that they were given; the guide's design, etcd and Redis know"
        " no such answer. Redis is asked by redis-benchmark, in its own protocol. "
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
    """Measure every server at every size."""
    rounds = 1 if quick else ROUNDS
    report = Report("serve: an answer", _note(rounds))
    if not available("wrk", "taskset"):
        yield Report("serve: an answer", "Left out: it needs wrk and taskset.")
        return
    for entries in SIZES[:1] if quick else SIZES:
        with _all_running(entries) as peers:
            for answer in ("200", "304"):
                found = _ask(peers, answer, rounds)
                ours = next(iter(found.values()))
                for contestant, spent in found.items():
                    report.add(**_row(entries, answer, contestant, spent, ours))
    yield report


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
