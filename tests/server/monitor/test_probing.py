"""Health checks: the endpoints, their times, the results, and the workers that read them."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config import Endpoint, EndpointConfig
from mop_config.health.probe import ProbeResult
from mop_config.model.endpoint import Kind, assemble, dumps, iter_endpoints, loads, rfc3339
from mop_config.net.faults import Fault
from mop_config.server.monitor.schedule import (
    MOST,
    ProbeSchedule,
    WatchedEndpoint,
    best,
    rules,
)
from mop_config.server.monitor.thread import ProbeResults
from mop_config.server.state.directory import Leadership, StateDirectory, parse_record

GOOD = ProbeResult(None, 0.25, "/health answers 200", "/health", status=200)
BAD = ProbeResult(Fault.REFUSED, 0.01, "Connection refused")


def body(api: list[Endpoint], socketio: list[Endpoint] | None = None) -> bytes:
    return dumps(EndpointConfig(tuple(api), tuple(socketio or ())))


def named(*names: str) -> list[Endpoint]:
    return [Endpoint(f"https://{name}.example", index) for index, name in enumerate(names)]


#: The endpoints that the tests name.
LISTED = [("api", f"https://{name}.example") for name in "abc"]
#: Seconds from one turn of the bench to the next.
STEP = 0.01


class Bench:
    """A schedule with its own clock; ``up`` has the URLs that answer."""

    def __init__(self, interval: float = 30.0, known: Any = (), chance: float = 0.5) -> None:
        self.probing = ProbeSchedule(rules(interval), lambda: chance, known)
        self.now = 1000.0
        self.up: set[str] = set()
        self.checks: list[tuple[float, str]] = []
        self.changes: list[tuple[str, bool, str]] = []

    def follow(self, api: list[Endpoint], socketio: list[Endpoint] | None = None) -> None:
        self.probing.follow(best(body(api, socketio)), self.now, self.now)

    def check(self, watched: WatchedEndpoint, result: ProbeResult | None = None) -> None:
        url = watched.endpoint.url
        self.checks.append((self.now, url))
        outcome = result or (GOOD if url in self.up else BAD)
        change = self.probing.record(watched, outcome, self.now, self.now)
        if change.went_down or change.came_back:
            self.changes.append((url, change.came_back, watched.results["detail"]))

    def run(self, seconds: float) -> None:
        start = self.now
        for step in range(int(seconds / STEP) + 1):
            self.now = start + step * STEP
            for watched in self.probing.due(self.now):
                self.check(watched)

    def next(self) -> WatchedEndpoint:
        """Advance the clock to the next check, and return the endpoint that is due then."""
        while not (due := self.probing.due(self.now)):
            self.now += STEP
        return due[0]

    def outages(self) -> dict[str, bool]:
        return {kind.value: down for kind, (down, _) in self.probing.outages().items()}

    def states(self) -> dict[str, str]:
        return {record["url"]: record["state"] for record in self.probing.results()}


class TestEntries:
    """``iter_endpoints`` reads the wire form of a list entry by entry."""

    @given(
        api=st.lists(st.tuples(st.integers(0, 65535), st.booleans()), max_size=5),
        socketio=st.lists(st.tuples(st.integers(0, 65535), st.booleans()), max_size=5),
    )
    def test_they_are_those_of_the_codec(
        self, api: list[tuple[int, bool]], socketio: list[tuple[int, bool]]
    ) -> None:
        """The entries equal those of the codec, with paths, ports and server names."""

        def make(scheme: str, seed: list[tuple[int, bool]]) -> tuple[Endpoint, ...]:
            return tuple(
                Endpoint(f"{scheme}://h{i}.example:81/a,(b)", p, "n.example" if named_ else None)
                for i, (p, named_) in enumerate(seed)
            )

        config = EndpointConfig(make("https", api), make("wss", socketio))
        wire = dumps(config)
        assert tuple(iter_endpoints(wire, Kind.API)) == loads(wire).api_endpoints
        assert tuple(iter_endpoints(wire, Kind.SOCKETIO)) == loads(wire).socketio_endpoints

    def test_the_best_of_each_kind_are_checked(self) -> None:
        """The best endpoints by priority and place are checked, ``MOST`` of each kind."""
        many = [Endpoint(f"https://h{i}.example", 10) for i in range(MOST + 50)]
        many.append(Endpoint("https://first.example", 1))
        listed = best(body(many, named("s")))
        assert [e.url for e in listed[Kind.API][:2]] == [
            "https://first.example",
            "https://h0.example",
        ]
        assert len(listed[Kind.API]) == MOST
        assert [e.url for e in listed[Kind.SOCKETIO]] == ["https://s.example"]

    def test_a_hundred_thousand_are_no_matter(self) -> None:
        """A list of 100,000 entries is read in less than 2 s of CPU time."""
        wire = body([assemble(f"https://h{i}.example", i, None) for i in range(100_000)])
        before = time.process_time()
        assert len(best(wire)[Kind.API]) == MOST
        assert time.process_time() - before < 2


class TestDue:
    """The times at which an endpoint is checked."""

    def test_a_good_one_is_asked_every_interval(self) -> None:
        """A healthy endpoint is checked once per interval, with jitter."""
        bench = Bench(interval=30)
        bench.follow(named("a"))
        bench.up = {"https://a.example"}
        bench.run(301)
        assert len(bench.checks) == 11

    def test_a_bad_one_is_asked_more_often_but_never_in_a_rush(self) -> None:
        """A failing endpoint is checked after 1, 2, 4 … s, up to the interval."""
        bench = Bench(interval=10)
        bench.follow(named("a"))
        bench.run(100)
        times = [at for at, _ in bench.checks]
        gaps = [b - a for a, b in pairwise(times)]
        assert gaps[:5] == pytest.approx([0.95, 1.9, 3.8, 7.6, 9.5], abs=2 * STEP)
        assert gaps[5:] == pytest.approx([9.5] * len(gaps[5:]), abs=2 * STEP)

    def test_a_reload_that_changes_nothing_asks_nobody(self) -> None:
        """A reload does not cause checks of unchanged endpoints."""
        bench = Bench(interval=300)
        bench.follow(named("a"))
        bench.up = {"https://a.example", "https://b.example"}
        bench.run(5)
        bench.follow(named("a", "b"))
        bench.run(5)
        assert [url for _, url in bench.checks] == ["https://a.example", "https://b.example"]

    def test_none_is_checked_twice_at_a_time(self) -> None:
        """An endpoint that is being checked is not due; the longest overdue one is first."""
        bench = Bench()
        bench.follow(named("a", "b", "c"))
        bench.now += 10
        first, *others = bench.probing.due(bench.now)
        assert first.endpoint.url == "https://a.example"
        assert [w.endpoint.url for w in others] == ["https://b.example", "https://c.example"]
        assert bench.probing.due(bench.now) == []
        for watched in others:
            bench.check(watched, BAD)
        bench.now += 10
        assert bench.probing.due(bench.now) == others

    def test_what_vanishes_is_forgotten(self) -> None:
        """A removed endpoint is unknown when it returns, even after a check that ends meanwhile."""
        bench = Bench()
        bench.follow(named("a"))
        bench.now += 1
        (watched,) = bench.probing.due(bench.now)
        bench.follow(named("b"))
        bench.check(watched, BAD)
        assert bench.states() == {"https://b.example": "unknown"}
        bench.follow(named("a"))
        bench.check(watched, BAD)
        assert bench.states() == {"https://a.example": "unknown"}


class TestFindings:
    """The state that follows from the results of checks."""

    def test_three_failures_are_down_and_two_good_checks_back(self) -> None:
        """Three failures make an endpoint unhealthy, two good checks healthy, noted once."""
        bench = Bench()
        bench.follow(named("a"))
        bench.run(60)
        assert bench.states() == {"https://a.example": "unhealthy"}
        bench.up = {"https://a.example"}
        bench.run(60)
        assert bench.states() == {"https://a.example": "healthy"}
        assert bench.changes == [
            ("https://a.example", False, "refused: Connection refused"),
            ("https://a.example", True, "/health answers 200"),
        ]

    @pytest.mark.parametrize(
        "result",
        [
            ProbeResult(Fault.OURS, 0.0, "Too many open files"),
            ProbeResult(Fault.BAD_STATUS, 0.0, "/health answers 429", status=429),
        ],
        ids=["ours", "too-often"],
    )
    def test_what_says_nothing_of_the_endpoint_changes_nothing(self, result: ProbeResult) -> None:
        """An error of ours, or a 429, changes no state, and the check is repeated later."""
        bench = Bench()
        bench.follow(named("a"))
        for _ in range(10):
            bench.check(bench.next(), result)
            bench.now += 0.5
            assert bench.probing.due(bench.now) == []
        assert bench.states() == {"https://a.example": "unknown"}
        assert "api" not in bench.probing.outages()

    def test_what_is_shown_is_bounded(self) -> None:
        """Only 200 characters of the detail are kept."""
        bench = Bench(interval=1)
        bench.follow(named("a"))
        bench.run(100)
        bench.now += 10
        (watched,) = bench.probing.due(bench.now)
        bench.check(watched, ProbeResult(Fault.TLS, 0.0, "x" * 1000))
        (record,) = bench.probing.results()
        assert len(record["detail"]) == 200

    def test_the_expiry_of_the_last_valid_certificate_is_kept(self) -> None:
        """A check that receives no certificate does not change it; a renewal does."""
        bench = Bench()
        bench.follow(named("a"))
        ends = datetime(2027, 1, 2, tzinfo=UTC)
        renewed = ends + timedelta(days=90)
        for result, expected in (
            (BAD, None),
            (GOOD._replace(certificate_expires=ends), ends),
            (BAD, ends),
            (GOOD._replace(certificate_expires=renewed), renewed),
        ):
            bench.check(bench.next(), result)
            (record,) = bench.probing.results()
            assert record["certificate_expires"] == (expected and rfc3339(expected.timestamp()))
        heir = Bench(known=json.loads(json.dumps(bench.probing.results())))
        heir.follow(named("a"))
        assert heir.probing.results() == bench.probing.results()

    def test_an_outage_is_all_of_a_kind_down_and_its_end_a_healthy_one(self) -> None:
        """All endpoints down is an outage, one healthy ends it, and unknown ones do neither."""
        bench = Bench()
        assert bench.outages() == {}
        bench.follow(named("a", "b"), named("s"))
        assert bench.outages() == {}
        bench.up = {"https://b.example"}
        bench.run(60)
        assert bench.outages() == {"api": False, "socketio": True}
        assert bench.probing.outages()[Kind.API] == (False, ["https://b.example"])
        assert bench.probing.outages()[Kind.SOCKETIO] == (True, ["https://s.example"])
        bench.follow(named("a"), named("s", "t"))
        assert bench.outages() == {"api": True}
        bench.up = {"https://t.example"}
        bench.run(10)
        assert bench.outages() == {"api": True, "socketio": False}
        assert bench.probing.outages()[Kind.SOCKETIO] == (False, ["https://t.example"])

    def test_a_kind_that_leaves_the_list_is_not_down_any_more(self) -> None:
        """A kind without endpoints is not down; in an empty list no state is known."""
        bench = Bench()
        bench.follow(named("a"), named("s"))
        bench.run(60)
        assert bench.outages() == {"api": True, "socketio": True}
        bench.follow([], named("s"))
        assert bench.outages() == {"api": False, "socketio": True}
        bench.follow([])
        assert bench.outages() == {}

    def test_of_a_long_list_the_best_endpoints_decide(self) -> None:
        """Endpoints beyond ``MOST`` are not checked and do not affect the outage."""
        bench = Bench()
        many = [Endpoint(f"https://h{i}.example", i) for i in range(MOST + 1)]
        bench.up = {f"https://h{MOST}.example"}
        bench.follow(many)
        bench.run(30)
        assert len(bench.states()) == MOST
        assert bench.outages() == {"api": True, "socketio": False}
        bench.up = {f"https://h{MOST - 1}.example"}
        bench.run(60)
        assert bench.outages() == {"api": False, "socketio": False}

    def test_who_takes_over_goes_on_where_the_other_ended(self) -> None:
        """A new leader keeps the known states and times, and repeats no change."""
        first = Bench(interval=300)
        first.follow(named("a", "b"))
        first.up = {"https://a.example"}
        first.run(60)
        known = json.loads(json.dumps(first.probing.results()))
        second = Bench(interval=300, known=known)
        second.now, second.up = first.now, first.up
        second.follow(named("a", "b"))
        assert second.probing.results() == known
        second.run(60)
        assert second.changes == []
        assert "https://a.example" not in [url for _, url in second.checks]
        second.run(300)
        assert "https://a.example" in [url for _, url in second.checks]

    @pytest.mark.parametrize("checks", [3, 4, 9])
    def test_a_down_endpoint_is_still_down_for_the_next_worker(self, checks: int) -> None:
        """The next worker shows a down endpoint as down, and knows of the outage of its kind."""
        first = Bench()
        first.follow(named("a"))
        for _ in range(checks):
            first.check(first.next(), BAD)
        second = Bench(known=first.probing.results())
        second.follow(named("a"))
        assert second.outages()["api"]
        second.check(second.next(), BAD)
        assert second.probing.results()[0]["up"] is False
        assert second.outages()["api"]


class TestFile:
    """The record of results that every worker reads."""

    def test_every_worker_sees_what_one_has_found(self, tmp_path: Path) -> None:
        """Every worker reads the results in the form of the status document."""
        bench = Bench()
        bench.follow(named("a", "b", "c"))
        bench.up = {"https://a.example"}
        bench.run(60)
        records = bench.probing.results()
        records[2] = {
            **records[2],
            "state": "unknown",
            "up": None,
            "checked_at": None,
        }
        ProbeResults(StateDirectory(tmp_path), "f", 30).write(records)
        reader = ProbeResults(StateDirectory(tmp_path), "f", 30)
        health = reader.health(LISTED)
        assert reader.read() == (os.getpid(), records)
        assert {key: value for key, value in health.items() if key != "endpoints"} == {
            "interval_seconds": 30,
            "alive": True,
            "pid": os.getpid(),
            "checked_at": max(str(e["checked_at"]) for e in health["endpoints"][:2]),
        }
        a, b, c = health["endpoints"]
        assert a == {
            "kind": "api",
            "url": "https://a.example",
            "state": "healthy",
            "up": True,
            "failures": 0,
            "response_seconds": 0.25,
            "checked_at": a["checked_at"],
            "detail": "/health answers 200",
            "certificate_expires": None,
        }
        assert str(a["checked_at"]).startswith("1970-01-01T00:17:")
        assert (b["up"], b["response_seconds"]) == (False, None)
        assert (c["up"], c["checked_at"]) == (None, None)

    def test_a_prober_that_cannot_save_its_findings_shows(self, tmp_path: Path) -> None:
        """``alive`` becomes false if the record is too old, except for an empty list."""
        path, writer = tmp_path / "f.probes.json", ProbeResults(StateDirectory(tmp_path), "f", 30)
        bench = Bench()
        bench.follow(named("a"))
        for records, age, alive in [
            (bench.probing.results(), 90, True),
            (bench.probing.results(), 120, False),
            ([], 120, True),
        ]:
            writer.write(records)
            at = time.time() - age
            os.utime(path, (at, at))
            health = ProbeResults(StateDirectory(tmp_path), "f", 30).health(LISTED)
            assert (health["alive"], health["pid"]) == (alive, os.getpid() if alive else None)
            assert len(health["endpoints"]) == len(records)

    def test_a_foreign_or_torn_file_is_no_finding(self, tmp_path: Path) -> None:
        """A record with any missing or foreign member is ignored."""
        path = tmp_path / "f.probes.json"
        empty = ProbeResults(StateDirectory(tmp_path), "f", 30).health(LISTED)
        assert (empty["alive"], empty["endpoints"]) == (False, [])
        bench = Bench()
        bench.follow(named("a"))
        bench.run(5)
        ProbeResults(StateDirectory(tmp_path), "f", 30).write(bench.probing.results())
        good = parse_record(StateDirectory(tmp_path).read(path.name))
        assert ProbeResults(StateDirectory(tmp_path), "f", 30).health(LISTED)["endpoints"]
        (entry,) = good["endpoints"]
        odd: list[Any] = [["x"], {}, "?" * 300]
        broken: list[Any] = [{**good, name: ["x"]} for name in good]
        broken += [{k: v for k, v in good.items() if k != name} for name in good]
        for name in entry:
            broken.append({**good, "endpoints": [{k: v for k, v in entry.items() if k != name}]})
            broken += [
                {**good, "endpoints": [{**entry, name: value}]}
                for value in odd
                if (name, value) not in [(n, "?" * 300) for n in ("kind", "url", "detail")]
            ]
        texts = ["", "{", "null", "[]", "\xff", "[" * 100_000, json.dumps(good)[:-9]]
        for text in [*texts, *map(json.dumps, broken)]:
            path.write_text(text)
            assert ProbeResults(StateDirectory(tmp_path), "f", 30).health(LISTED) == empty, text[
                :300
            ]
            assert ProbeResults(StateDirectory(tmp_path), "f", 30).read() == (None, [])

    def test_a_folder_without_room_costs_one_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the record cannot be written, there is one warning and no results until it can be."""
        bench = Bench()
        bench.follow(named("a"))
        (tmp_path / "gone").write_text("a file in its place")
        results = ProbeResults(StateDirectory(tmp_path / "gone"), "f", 30)
        for _ in range(3):
            assert not results.write(bench.probing.results())
        assert len(caplog.records) == 1
        assert not results.health(LISTED)["alive"]
        (tmp_path / "gone").unlink()
        assert results.write(bench.probing.results())
        assert results.health(LISTED)["alive"]
        assert len(results.health(LISTED)["endpoints"]) == 1


class TestLeadership:
    """One worker of a host is the leader."""

    def test_only_one_has_it(self, tmp_path: Path) -> None:
        """One process leads until it releases the lock; taking it again is allowed."""
        first, second = (Leadership(StateDirectory(tmp_path), "l") for _ in range(2))
        assert first.take()
        assert first.take()
        assert not second.take()
        first.release()
        assert second.take()
        assert not first.take()
        second.release()

    def test_who_is_killed_has_it_no_more(self, tmp_path: Path) -> None:
        """The kernel releases the lock of a killed process."""
        code = (
            "import sys; from pathlib import Path;"
            "from mop_config.server.state.directory import StateDirectory;"
            "from mop_config.server.state.directory import Leadership;"
            "held = Leadership(StateDirectory(Path(sys.argv[1])), 'l');"
            "print(held.take(), flush=True); sys.stdin.read()"
        )
        own = Leadership(StateDirectory(tmp_path), "l")
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "True\n"
            assert not own.take()
            other.kill()
        assert own.take()
        own.release()

    def test_a_cleared_folder_makes_no_second_one(self, tmp_path: Path) -> None:
        """A leader whose lock file was removed sees that another process leads."""
        first, second = (Leadership(StateDirectory(tmp_path), "l") for _ in range(2))
        assert first.take()
        (tmp_path / "l").unlink()
        assert second.take()
        assert not first.take()
        second.release()

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        """The lock file is not opened through a symbolic link."""
        (tmp_path / "l").symlink_to(tmp_path / "other")
        with pytest.raises(OSError, match="symbolic"):
            Leadership(StateDirectory(tmp_path), "l").take()
