"""Servers that watch a key in etcd, through edits, outages and restores."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..etcds import Cluster, Wire, running_cluster
from ..server.sources.test_etcd_source import safe_cluster
from ..servers import ENDPOINTS, Server, running
from ..waiting import wait_for


def text(name: str) -> str:
    return f"DomainList:\n{name}.example\nother.example\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


def serves(server: Server, name: str, state: str = "fresh", seconds: float = 20) -> None:
    """Wait until every worker serves a list that contains the name."""

    def so() -> bool:
        return server.all_serve(f"{name}.example", "other.example") and server.all_are(state)

    wait_for(so, seconds=seconds, what=f"{name} is served, {state}")


def last(server: Server) -> Any:
    """Return the last reload in the status."""
    return server.status()["last_reload"]


def test_an_edit_is_served_by_every_worker(cluster: Cluster, tmp_path: Path) -> None:
    """The watch applies edits; SIGHUP, a bad text and a missing key act as with a file."""
    cluster.put(text("a"))
    with running(tmp_path, cluster.address(), ENDPOINT_POLL_INTERVAL="0") as server:
        wait_for(lambda: server.status()["watcher"] == {"mode": "etcd", "alive": True})
        serves(server, "a")
        assert server.status()["source"] == cluster.address()
        cluster.put(text("b"))
        serves(server, "b")
        wait_for(lambda: last(server)["trigger"] == "etcd")

        server.send(signal.SIGHUP)
        wait_for(
            lambda: (last(server)["trigger"], last(server)["result"]) == ("sighup", "unchanged")
        )

        cluster.put("DomainList:\n")
        serves(server, "b", "rejected")
        cluster.put(text("c"))
        serves(server, "c")
        cluster.delete()
        serves(server, "c", "rejected")
        wait_for(lambda: "no such key" in str(server.get("/ready").json["reason"]))
        cluster.put(text("d"))
        serves(server, "d")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10


def test_a_change_that_is_missed_is_found(cluster: Cluster, tmp_path: Path) -> None:
    """If the key changes during a lost watch and etcd compacts, the newest text is served."""
    cluster.put(text("a"))
    wire = Wire(cluster.members[0].port)
    try:
        address = f"etcd://127.0.0.1:{wire.port}/mop/endpoints"
        with running(tmp_path, address, ENDPOINT_POLL_INTERVAL="0") as server:
            serves(server, "a")
            wire.cut()
            wait_for(lambda: "etcd does not answer" in str(last(server)["error"]), seconds=20)
            wait_for(lambda: not server.status()["watcher"]["alive"])
            assert server.get().status == 200
            for name in "bcd":
                revision = cluster.put(text(name))
            cluster.any("/kv/compaction", {"revision": str(revision), "physical": True})
            # Time for some failed attempts, of which only the first is logged.
            vain = server.log.count("does not answer")
            wait_for(lambda: server.log.count("the watch on etcd is lost") >= 2, seconds=20)
            wire.mend()
            serves(server, "d")
            assert server.log.count("failed (") <= vain + 1
            assert wait_for(lambda: server.status()["watcher"]["alive"])
            assert "Traceback" not in server.log
    finally:
        wire.close()


def test_an_etcd_that_hangs_at_the_end_and_at_the_start(tmp_path: Path) -> None:
    """A hanging etcd delays no stop; a start serves the state folder's list until etcd answers."""
    with running_cluster(tmp_path / "etcd") as cluster:
        (member,) = cluster.members
        cluster.put(text("a"))
        with running(tmp_path, cluster.address(), workers=1, ENDPOINT_POLL_INTERVAL="1") as server:
            serves(server, "a")
            member.freeze()
            wait_for(lambda: server.status()["state"] == "stale", seconds=30)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 14
        with running(tmp_path, cluster.address(), workers=1, ENDPOINT_POLL_INTERVAL="1") as server:
            serves(server, "a", "stale")
            assert server.get("/ready").status == 200
            member.thaw()
            cluster.put(text("b"))
            serves(server, "b", seconds=30)


def test_nothing_good_was_ever_seen(tmp_path: Path) -> None:
    """Without a good text ever, the lists are empty and the status has a reason, as with a file."""
    with running(tmp_path, "etcd://127.0.0.1:1/k", workers=1) as server:
        assert server.get().json == {"api_endpoints": [], "socketio_endpoints": []}
        ready = server.get("/ready")
        assert (ready.status, ready.json["state"]) == (503, "empty")
        assert "Connection refused" in ready.json["reason"]


def enable_login(cluster: Cluster) -> dict[str, str]:
    """Make etcd require a login; return the settings of a server."""
    steps = [
        ("/auth/user/add", {"name": "root", "password": "rootpw"}),
        ("/auth/role/add", {"name": "root"}),
        ("/auth/user/grant", {"user": "root", "role": "root"}),
        ("/auth/enable", {}),
    ]
    for path, message in steps:
        cluster.ask(path, message)
    cluster.root = "rootpw"
    return {"ENDPOINT_ETCD_USER": "root", "ENDPOINT_ETCD_PASSWORD": cluster.root}


@pytest.mark.parametrize("login", [False, True])
def test_a_restore_is_served(login: bool, tmp_path: Path) -> None:
    """After a restore of etcd its revision is lower, and clients still get the restored list."""
    settings: dict[str, Any] = {}
    with running_cluster(tmp_path / "etcd") as cluster:
        (member,) = cluster.members
        cluster.put(text("a"))
        if login:
            settings = enable_login(cluster)
        member.kill()
        shutil.copytree(member.folder, tmp_path / "backup")
        member.start()
        cluster.wait_until_up()
        # etcd holds a request whose token names a later raft index than the restored cluster has.
        for _ in range(20):
            cluster.put(text("a"))
        with running(tmp_path, cluster.address(), **settings) as server:
            for name in "bc":
                cluster.put(text(name))
            serves(server, "c")
            newer = server.get(ENDPOINTS).headers
            member.kill()
            shutil.rmtree(member.folder)
            shutil.copytree(tmp_path / "backup", member.folder)
            member.start()
            serves(server, "a", seconds=30)
            answer = server.get(
                ENDPOINTS,
                **{"If-Modified-Since": newer["Last-Modified"]},
            )
            assert answer.status == 200
            assert answer.headers["ETag"] != newer["ETag"]
            # Later edits are new too, although etcd reuses their revision numbers.
            cluster.put(text("d"))
            serves(server, "d")


@pytest.mark.parametrize("worker_class", ["sync", "asgi"])
def test_other_workers_with_tls_and_a_login(worker_class: str, tmp_path: Path) -> None:
    """Other worker classes follow a key over TLS with a login, also through outages."""
    with safe_cluster(tmp_path / "safe") as safe:
        cluster = safe.cluster
        cluster.put(text("a"))
        with running(
            tmp_path,
            cluster.address(),
            workers=1,
            WORKER_CLASS=worker_class,
            ENDPOINT_ETCD_CA=safe.ca,
            ENDPOINT_ETCD_CERT=safe.cert,
            ENDPOINT_ETCD_USER="mop",
            ENDPOINT_ETCD_PASSWORD="right",
        ) as server:
            serves(server, "a")
            wait_for(lambda: server.status()["watcher"] == {"mode": "etcd", "alive": True})
            cluster.put(text("b"))
            serves(server, "b")
            cluster.members[0].kill()
            wait_for(lambda: server.status()["state"] == "stale", seconds=20)
            cluster.members[0].start()
            cluster.put(text("c"))
            serves(server, "c", seconds=30)
            assert "right" not in server.log
            assert "Traceback" not in server.log
