"""The cost of a fault of the primary for the following requests, per client."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any, NamedTuple

from .contestants import HAS_REDIS, HTTP, REDIS, SPARE, Ask, Contestant, http_pair, redis_pair
from .faults import FAULTS, Fault
from .report import Report, median, options

#: Seconds between the starts of two requests, unless the first takes longer.
PERIOD = 0.05
#: Number of requests that show the steady state after the recovery.
ENOUGH = 10
#: Seconds of requests before the fault: our client learns latencies from more than 20 answers.
WARM = 1.5
#: Seconds within which a client that can recover should have recovered.
PATIENCE = 20.0


class Load(NamedTuple):
    """The results of a client's requests, in order; times in milliseconds."""

    good: list[bool]
    took: list[float]

    @property
    def failed(self) -> int:
        """Return the number of failed requests."""
        return self.good.count(False)

    @property
    def later(self) -> list[float]:
        """Return the times of the successful requests after the slowest request."""
        worst = self.took.index(max(self.took))
        return [t for t, good in list(zip(self.took, self.good, strict=True))[worst + 1 :] if good]


def _send(ask: Ask, seconds: float, patience: float) -> Load:
    """Send requests for that number of seconds, and then until requests succeed again."""
    load = Load([], [])
    began = time.perf_counter()
    while True:
        sent = time.perf_counter()
        try:
            ask()
            load.good.append(True)
        except Exception:
            load.good.append(False)
        now = time.perf_counter()
        load.took.append((now - sent) * 1000)
        back = load.good[-1] and len(load.good) > ENOUGH
        if now - began >= (seconds if back else patience):
            return load
        time.sleep(max(0.0, sent + PERIOD - now))


def _pair(fault: Fault, contestants: Sequence[Contestant]) -> AbstractContextManager[Any]:
    return redis_pair() if contestants is REDIS else http_pair(tls=fault.tls)


def _meet(fault: Fault, contestants: Sequence[Contestant]) -> list[Load]:
    """Apply a fault to the primary of clients with warm connections."""
    with _pair(fault, contestants) as pair, contextlib.ExitStack() as stack:
        if contestants is not REDIS:
            for server in (pair.primary, pair.backup):
                server.behave(delay=fault.delay)
        asks = [stack.enter_context(contestant.run(pair)) for contestant in contestants]
        for ask in asks:
            warm = _send(ask, WARM, WARM)
            if warm.failed:
                raise RuntimeError(f"a client fails {warm.failed} requests before {fault.name}")
        primary = pair[0]
        with fault.befall(primary), ThreadPoolExecutor(len(asks)) as threads:
            sending = [
                threads.submit(
                    _send, ask, fault.seconds, PATIENCE if contestant.recovers else fault.seconds
                )
                for ask, contestant in zip(asks, contestants, strict=True)
            ]
            return [each.result() for each in sending]


def _meet_all(fault: Fault) -> dict[str, Load]:
    """Run every client once under a fault."""
    groups: list[Sequence[Contestant]] = [HTTP]
    if fault.in_turn:
        groups = [(each,) for each in SPARE + HTTP]
    if fault.redis and HAS_REDIS:
        groups.append(REDIS)
    with ThreadPoolExecutor(1 if fault.in_turn else len(groups)) as threads:
        found = list(threads.map(lambda group: _meet(fault, group), groups))
    return {
        contestant.name: load
        for group, loads in zip(groups, found, strict=True)
        for contestant, load in zip(group, loads, strict=True)
    }


def befallen(fault: Fault, quick: bool) -> Report:
    """Measure every client under one fault."""
    repeat = (1 if quick else 5) * fault.repeat
    report = Report(f"failover: {fault.name}", _note(fault, repeat))
    loads: dict[str, list[Load]] = {}
    for _ in range(repeat):
        for name, load in _meet_all(fault).items():
            loads.setdefault(name, []).append(load)
    ours = median([max(load.took) for load in loads[HTTP[0].name]])
    for name, found in loads.items():
        report.add(**_row(name, found, ours))
    return report


def _note(fault: Fault, repeat: int) -> str:
    named = ", ".join(
        f"{name} {version(name)}" for name in ("httpx2", "elastic-transport", "redis")
    )
    return (
        f"{fault.about} The clients are warm, with some 30 answers each. Then the fault occurs,"
        f" and each client sends a GET every {PERIOD * 1000:.0f} ms for {fault.seconds:g} s, or"
        f" longer if it takes longer until it gets an answer again. {repeat} repetitions were made,"
        " with every client in each. Sent and failed count the requests of all repetitions. Worst"
        " (the median of the repetitions) and largest (their maximum) are the milliseconds of the"
        " request that took longest. Later is the median, in milliseconds, of the requests after it"
        " that succeeded. Times ours is worst divided by our worst. Clients have their defaults,"
        " except for the options in their names; the loop by hand begins at the endpoint that"
        " answered last. redis-py is measured with two redis-servers that get the same fault, in"
        f" the tables where a comparison is possible. {named}."
        + ("" if HAS_REDIS else " There is no redis-server here: its row is missing.")
    )


def _row(name: str, loads: list[Load], ours: float) -> dict[str, Any]:
    worst = [max(load.took) for load in loads]
    later = [took for load in loads for took in load.later]
    return {
        "client": name,
        "sent": sum(len(load.took) for load in loads),
        "failed": sum(load.failed for load in loads),
        "worst_ms": _rounded(median(worst)),
        "largest_ms": _rounded(max(worst)),
        "later_ms": _rounded(median(later)) if later else "none",
        "times_ours": median(worst) / ours,
    }


def _rounded(value: float) -> float:
    return round(value) if value >= 100 else round(value, 1)


def reports(quick: bool) -> Iterator[Report]:
    """Run all benchmarks of this file."""
    # Every client logs at equal cost, and the logs are not shown.
    logging.basicConfig(handlers=[logging.NullHandler()])
    for fault in FAULTS:
        yield befallen(fault, quick)


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
