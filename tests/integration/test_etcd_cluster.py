"""Three servers on a cluster of three members, under random edits and faults."""

import base64
import contextlib
import http.client
import os
import random
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mop_config.errors import SourceError
from mop_config.server.parsing.render import EMPTY_BODY, render
from mop_config.server.settings import UrlRules

from ..etcds import KEY, Cluster, encode, running_cluster
from ..servers import ENDPOINTS, Server, gunicorn_command
from ..waiting import wait_for

STEPS = 200
#: Steps before which every member of the cluster is lost.
LOST_AT = (60, 140)
SEED = 20_240
#: Seconds between two requests of a sampler.
PERIOD = 0.03

BAD_TEXTS = [
    b"",
    b"DomainList:\n",
    b"\xff\xfe\x00",
    b"DomainList:\nx\0.example\n",
    b"x" * 5000,  # larger than ENDPOINT_MAX_BYTES
    b"DomainList:\n1.2.3.999\nother.example\n",  # larger than ENDPOINT_MAX_BYTES
]


def good_text(number: int) -> bytes:
    return f"DomainList:\nedit-{number}.example\nother.example\n".encode()


def etag(text: bytes) -> str:
    return render(text, UrlRules(), EMPTY_BODY).etag


class Sampler:
    """Requests a server's list in a loop on two persistent connections.

    A connection belongs to one worker, so the lists on it are what this worker serves, in order.
    The status cannot show that order: a worker answers for the others from their records, and a
    record is written a moment after the list is served.
    """

    def __init__(self, server: Server, written: set[str]) -> None:
        self.server = server
        self.written = written
        self.strays: set[str] = set()
        self.answers = 0
        self.seen: list[list[str]] = []  # the lists of each connection, in order
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # A killed worker closes its connections.
            with (
                contextlib.suppress(OSError, http.client.HTTPException),
                contextlib.closing(
                    http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
                ) as connection,
            ):
                connection.connect()
                self._follow(connection)
            self._stopping.wait(PERIOD)

    def _follow(self, connection: http.client.HTTPConnection) -> None:
        """Record each list that a connection's worker serves, until the connection ends."""
        seen: list[str] = []
        self.seen.append(seen)
        while not self._stopping.wait(PERIOD):
            connection.request("GET", ENDPOINTS)
            response = connection.getresponse()
            body, mark = response.read(), response.getheader("ETag", "").strip('"')
            if response.status != 200 or mark not in self.written:
                self.strays.add(f"{response.status} {body!r}")
            self.answers += 1
            if seen[-1:] != [mark]:
                seen.append(mark)
            if connection.sock is None:
                return  # the worker has closed the connection

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


class Run:
    """A seeded run: each step is an edit or a fault."""

    def __init__(self, cluster: Cluster, servers: list[Server], written: set[str]) -> None:
        self.cluster, self.servers, self.written = cluster, servers, written
        self.random = random.Random(SEED)
        self.edits = 0
        self.order: dict[int, str] = {}  # ETag of each written text, by revision
        self.done: dict[str, int] = {}

    def step(self, number: int) -> None:
        """Do one edit or fault, and give lost members a chance to return."""
        if number in LOST_AT:
            self.lose_all()
        if self.random.random() < 0.04:
            self.repair()
        kinds = {
            "edit": 140,
            "spoil": 20,
            "delete": 5,
            "kill_member": 8,
            "freeze_member": 8,
            "kill_worker": 3,
            "hup": 8,
            "compact": 6,
        }
        (kind,) = self.random.choices(list(kinds), list(kinds.values()))
        getattr(self, kind)()
        self.done[kind] = self.done.get(kind, 0) + 1

    def edit(self) -> None:
        self.edits += 1
        text = good_text(self.edits)
        self.written.add(etag(text))
        self.cluster.put(text)

    def spoil(self) -> None:
        self.cluster.put(self.random.choice(BAD_TEXTS))

    def delete(self) -> None:
        self.cluster.delete()

    def record(self) -> None:
        """Record etcd's order of the texts, before a compaction removes it."""
        asked = {"key": encode(KEY)}
        newest = int(self.cluster.any("/kv/range", asked)["header"]["revision"])
        for revision in range(max(self.order, default=1) + 1, newest + 1):
            kept = self.cluster.any("/kv/range", {**asked, "revision": str(revision)}).get("kvs")
            data = base64.b64decode(kept[0].get("value", "")) if kept else b""
            with contextlib.suppress(SourceError):
                self.order[revision] = etag(data)

    def compact(self) -> None:
        self.record()
        answer = self.cluster.any("/kv/range", {"key": "AA=="})
        message = {"revision": answer["header"]["revision"], "physical": False}
        # After a lost answer, a second compaction at the same revision is an error.
        for index, member in enumerate(self.cluster.members):
            if member.running and not member.frozen:
                with contextlib.suppress(Exception):
                    self.cluster.ask("/kv/compaction", message, index, timeout=2)
                return

    def whole(self) -> bool:
        return all(member.running and not member.frozen for member in self.cluster.members)

    def kill_member(self) -> None:
        if self.whole():
            self.random.choice(self.cluster.members).kill()

    def freeze_member(self) -> None:
        if self.whole():
            self.random.choice(self.cluster.members).freeze()

    def lose_all(self) -> None:
        for member in self.cluster.members:
            if member.frozen:
                member.thaw()
            member.kill()
        wait_for(lambda: all(s.status().get("state") == "stale" for s in self.servers), seconds=30)
        self.repair()

    def kill_worker(self) -> None:
        os.kill(self.random.choice(self.random.choice(self.servers).workers), signal.SIGKILL)

    def hup(self) -> None:
        self.random.choice(self.servers).send(signal.SIGHUP)

    def repair(self) -> None:
        for member in self.cluster.members:
            if member.frozen:
                member.thaw()
            elif not member.running:
                member.start()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Cluster, list[Server], set[str]]]:
    """Run the servers, each with its own state folder, as on three machines."""
    written = {etag(good_text(0))}
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(tmp_path / "etcd", 3))
        cluster.put(good_text(0))
        started = []
        for i in range(3):
            # Each server tries another member first.
            members = cluster.members[i:] + cluster.members[:i]
            folder = tmp_path / f"server{i}"
            folder.mkdir()
            settings = {
                "ENDPOINT_CONFIG_FILE": Cluster(members, None).address(),
                "ENDPOINT_STATE_DIR": str(folder / "state"),
                "ENDPOINT_STRICT": "1",
                "ENDPOINT_MAX_BYTES": "4000",
                "WEB_CONCURRENCY": "2",
                "PORT": "0",
            }
            server = Server(gunicorn_command(), folder, settings)
            stack.callback(server.stop)
            started.append(server)
        yield cluster, [server.wait_until_up(workers=2) for server in started], written
        for server in started:
            server.send(signal.SIGTERM)


def test_all_end_with_the_same_list_and_none_serves_another(
    servers: tuple[Cluster, list[Server], set[str]],
) -> None:
    """After 200 edits and faults, no server served an unwritten or older text, and all agree."""
    cluster, running_servers, written = servers
    run = Run(cluster, running_servers, written)
    samplers = [Sampler(server, written) for server in running_servers]
    pacing = threading.Event()
    try:
        for number in range(STEPS):
            run.step(number)
            pacing.wait(run.random.uniform(0, 0.08))
        run.repair()
        run.edit()
        last = etag(good_text(run.edits))
        for server in running_servers:
            wait_for(
                partial(agreed, server, last), seconds=40, what="both workers serve the last edit"
            )
    finally:
        for sampler in samplers:
            sampler.stop()
    run.record()
    order = [run.order[revision] for revision in sorted(run.order)]
    assert run.done["edit"] > 100
    for sampler in samplers:
        assert not sampler.strays
        assert sampler.answers > 50
        assert max(map(len, sampler.seen)) > 20
        assert "Traceback" not in sampler.server.log
        for seen in sampler.seen:
            rest = iter(order)
            back = next((mark for mark in seen if mark not in rest), None)
            assert back is None, told(back, seen, run.edits)


def agreed(server: Server, last: str) -> bool:
    status = server.status()
    marks = [worker["etag"] for worker in status["workers"]]
    return marks == [last, last] and status["state"] == "fresh"


def told(back: str, seen: list[str], edits: int) -> str:
    """Return a message with the numbers of the edits, for a worker that served an older text."""
    numbers = {etag(good_text(number)): number for number in range(edits + 1)}
    return f"back at {numbers.get(back)} in {[numbers.get(mark) for mark in seen]}"
