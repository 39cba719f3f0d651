"""The overhead of a request through the pool, compared with bare httpx2."""

import gc
import statistics
import time
from pathlib import Path

import httpx2
import pytest

from mop_config.client import EndpointManager

from .fleet import fleet_in

#: Requests of each client; they alternate, so that load on the machine hits both.
REQUESTS = 1000
#: Rounds at most; the smallest ratio counts, because other load only increases a ratio.
ROUNDS = 10


def _seconds(client: httpx2.Client) -> float:
    began = time.perf_counter()
    client.get("/calm")
    return time.perf_counter() - began


def _ratio(bare: httpx2.Client, ours: httpx2.Client) -> float:
    """Return the ratio of the medians of alternating requests, with alternating order."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(REQUESTS):
        pair = ((times[0], bare), (times[1], ours))
        for taken, client in pair if number % 2 else reversed(pair):
            taken.append(_seconds(client))
    bare_seconds, our_seconds = (statistics.median(taken) for taken in times)
    print(f"bare {bare_seconds * 1e6:.0f} µs, ours {our_seconds * 1e6:.0f} µs")
    return our_seconds / bare_seconds


@pytest.mark.alone
def test_a_call_through_the_transport_costs_little(tmp_path: Path) -> None:
    """A warm request through the transport costs at most 8 % more than bare httpx2.

    The goal is 5 %, which the benchmark measures; the larger bound allows for other load.
    """
    with fleet_in(tmp_path) as fleet:
        primary, backup = fleet.pair()
        manager = EndpointManager([primary.url, backup.url])
        with httpx2.Client(base_url=primary.url) as bare, manager.client(start=False) as ours:
            for _ in range(200):
                _seconds(bare)
                _seconds(ours)
            gc.collect()
            gc.disable()  # a pause would hit either client at random
            try:
                ratios: list[float] = []
                while len(ratios) < ROUNDS and min(ratios, default=2.0) > 1.08:
                    ratios.append(_ratio(bare, ours))
            finally:
                gc.enable()
    print("ratios", [f"{ratio:.3f}" for ratio in ratios])
    assert min(ratios) <= 1.08
