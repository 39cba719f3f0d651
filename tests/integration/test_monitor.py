"""Health checks by real servers: one worker checks the endpoints, and all report the results."""

import contextlib
import json
import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from mop_config import Endpoint
from mop_config.model.endpoint import Kind
from mop_config.server.monitor.schedule import ProbeSchedule, rules
from mop_config.server.monitor.thread import EndpointMonitor
from mop_config.server.service import ConfigService
from mop_config.server.settings import Settings
from mop_config.server.web.app import create_app

from ..client.fleet import silence
from ..client.handmade import MISSING, OK, Handmade, handmade
from ..client.socket_server import socket_server
from ..conftest import SAMPLE
from ..disks import fill, small_disk
from ..ports import closed_port
from ..scrapes import Scrape
from ..servers import ROOT, Server, running
from ..waiting import wait_for

DOWN: Any = (503, {}, b"")


def found(server: Server) -> dict[str, Any]:
    """Return the status of each endpoint by URL."""
    health = server.status().get("health")
    return {entry["url"]: entry for entry in health["endpoints"]} if health else {}


def states(server: Server) -> dict[str, str]:
    return {url: entry["state"] for url, entry in found(server).items()}


def prober(server: Server) -> int:
    """Return the process id of the worker that checks, or 0."""
    health = server.status().get("health")
    return int(health["pid"] or 0) if health else 0


def kill_prober(server: Server) -> int:
    """Kill the checking worker, and wait until another worker checks."""
    victim = wait_for(lambda: prober(server))
    os.kill(victim, signal.SIGKILL)
    return wait_for(
        lambda: next((pid for pid in [prober(server)] if pid not in {0, victim}), 0),
        seconds=20,
        what="another worker checks",
    )


def settle(server: Server) -> None:
    """Wait for the successor of a killed worker, so that no message is sent meanwhile."""
    wait_for(lambda: len(server.status()["workers"]) == 2, seconds=20, what="two workers answer")


@contextlib.contextmanager
def https(authority: trustme.CA) -> Iterator[Handmade]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with handmade(tls=context) as server:
        yield server


def test_one_worker_looks_and_all_know(tmp_path: Path) -> None:
    """One worker checks the file's URLs only, and another worker takes over if that worker dies."""
    authority = trustme.CA()
    with contextlib.ExitStack() as stack:
        secure = stack.enter_context(https(authority))
        foreign = stack.enter_context(https(trustme.CA()))
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        elsewhere = stack.enter_context(handmade())
        proxy = stack.enter_context(handmade())
        moved = stack.enter_context(
            handmade(lambda asked: (302, {"Location": f"{elsewhere.url}/health"}, b""))
        )
        late = stack.enter_context(
            handmade(lambda asked: OK if asked.path == "/health" else MISSING)
        )
        sockets = stack.enter_context(socket_server(tmp_path, "s", path="/ws"))
        gone = f"http://127.0.0.1:{closed_port()}"
        file = tmp_path / "endpoints.txt"
        lines = [secure.url, foreign.url, f"{moved.url}/v1", f"{late.url}/v1"]
        sockets_list = f"SocketList:\nws://127.0.0.1:{sockets.port}/ws\n{gone}\n"
        file.write_text("\n".join(["ApiList:", *lines, sockets_list]))
        names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"]
        proxies: Any = dict.fromkeys(names, proxy.url)
        server = stack.enter_context(
            running(
                tmp_path,
                file,
                ENDPOINT_PROBE_INTERVAL="0.4",
                SSL_CERT_FILE=str(tmp_path / "ca.pem"),
                **proxies,
            )
        )
        expected = {
            secure.url: "healthy",
            foreign.url: "unhealthy",
            f"{moved.url}/v1": "unhealthy",
            f"{late.url}/v1": "healthy",
            f"ws://127.0.0.1:{sockets.port}/ws": "healthy",
            gone: "unhealthy",
        }
        wait_for(lambda: states(server) == expected, seconds=30, what="all are known")
        seen = found(server)
        assert seen[foreign.url]["detail"].startswith("tls: ")
        assert seen[f"{moved.url}/v1"]["detail"] == "bad-status: /v1/health answers 302"
        assert seen[f"{late.url}/v1"]["detail"] == "/health answers 200"
        assert 0 < seen[secure.url]["response_seconds"] < 5
        left = datetime.fromisoformat(seen[secure.url]["certificate_expires"]) - datetime.now(UTC)
        assert left > timedelta(days=100)
        assert seen[foreign.url]["certificate_expires"] is None
        expiry = Scrape(server.get("/metrics").body.decode()).series(
            "mop_config_endpoint_certificate_expiry_timestamp_seconds", "url"
        )
        assert expiry.keys() == {secure.url}
        page = server.get("/?lang=en").body.decode()
        assert f"certificate: {left.days:,} days left" in page
        # From the second check on, the path that answered is tried first.
        assert late.count("/v1/health") == 1

        assert kill_prober(server) in server.workers
        kept = found(server)
        assert {url: entry["state"] for url, entry in kept.items()} == expected
        assert kept[secure.url]["checked_at"] >= seen[secure.url]["checked_at"]

        assert elsewhere.asked == proxy.asked == []
        began = time.monotonic()
        file.write_text("\n".join(["ApiList:", *lines[:2], elsewhere.url]))
        want = {secure.url: "healthy", foreign.url: "unhealthy", elsewhere.url: "healthy"}
        wait_for(lambda: states(server) == want, seconds=30, what="the new one is known")
        asked = len(elsewhere.asked)
        # Two checking workers would check twice as often: the interval varies by a tenth.
        assert asked <= (time.monotonic() - began) / (0.9 * 0.4) + 3
        assert proxy.asked == []
        settle(server)
        log = server.log
    assert log.count(f"the Socket.io endpoint {gone} is down: refused") == 1
    assert f"the API endpoint {elsewhere.url} is" not in log
    assert "Traceback" not in log


def told(hook: Handmade) -> list[str]:
    """Return the types of the messages, without repeats after a lost answer."""
    messages = {asked.header("webhook-id"): asked.body for asked in hook.asked}
    return [json.loads(body)["type"] for body in messages.values()]


def verifier() -> Any:
    """Return the verification function of `docs/webhook.md`."""
    names: dict[str, Any] = {}
    page = (ROOT / "docs" / "webhook.md").read_text()
    (block,) = [
        part.split("```")[0]
        for part in page.split("```python\n")[1:]
        if "webhook-signature" in part.split("```")[0]
    ]
    exec(block, names)
    return names["verify"]


def test_an_outage_is_told_once_whatever_happens_meanwhile(tmp_path: Path) -> None:
    """An outage is reported once, despite a killed worker, a reload and a restart."""
    file = tmp_path / "endpoints.txt"
    with handmade(lambda asked: DOWN) as api, handmade() as hook:
        file.write_text(f"ApiList:\n{api.url}\n{api.url}/v2\n")
        environ: Any = {
            "ENDPOINT_PROBE_INTERVAL": "0.3",
            "ENDPOINT_ALERT_WEBHOOK": f"{hook.url}/T0P?k=S3CRET",
            "ENDPOINT_ALERT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        }
        with running(tmp_path, file, **environ) as server:
            wait_for(lambda: hook.asked, seconds=30, what="the webhook is told")
            kill_prober(server)
            os.kill(server.pid, signal.SIGHUP)
            file.write_text(f"ApiList:\n{api.url}\n{api.url}/v3\n")
            wait_for(lambda: states(server).get(f"{api.url}/v3") == "unhealthy", seconds=30)
            settle(server)
            logs = server.log
        with running(tmp_path, file, **environ) as server:
            count = len(api.asked)
            wait_for(lambda: len(api.asked) > count + 4, seconds=30, what="it is checked again")
            assert set(states(server).values()) == {"unhealthy"}
            api.answer = lambda asked: OK
            wait_for(lambda: "healthy" in states(server).values(), seconds=30)
            wait_for(lambda: len(told(hook)) > 1, what="the webhook is told")
            wait_for(lambda: set(states(server).values()) == {"healthy"})
            logs += server.log
        assert told(hook) == ["endpoints.down", "endpoints.recovered"]
        verify = verifier()
        for asked in hook.asked:
            assert verify(environ["ENDPOINT_ALERT_SECRET"], asked.headers, asked.body)
            assert not verify(environ["ENDPOINT_ALERT_SECRET"], asked.headers, asked.body + b" ")
            late = {**asked.headers, "webhook-timestamp": "1"}
            assert not verify(environ["ENDPOINT_ALERT_SECRET"], late, asked.body)
    for secret in ("T0P", "S3CRET", "MfKQ9"):
        assert secret not in logs
    assert "Traceback" not in logs


def test_a_recovery_by_other_settings_is_told(tmp_path: Path) -> None:
    """Whoever mends a wrong health check closes the incident that it has opened."""
    file = tmp_path / "endpoints.txt"
    with handmade(lambda asked: OK) as api, handmade() as hook:
        file.write_text(f"ApiList:\n{api.url}\n")
        watched = partial(
            running,
            tmp_path,
            file,
            ENDPOINT_PROBE_INTERVAL="0.3",
            ENDPOINT_ALERT_WEBHOOK=hook.url,
            ENDPOINT_STATE_DIR=str(tmp_path / "state"),
        )
        with watched(ENDPOINT_HEALTH_CONTAINS="something else") as server:
            wait_for(lambda: told(hook), seconds=30, what="the webhook is told")
            settle(server)
        with watched():
            wait_for(lambda: len(told(hook)) > 1, seconds=30, what="the webhook is told again")
        assert told(hook) == ["endpoints.down", "endpoints.recovered"]


def test_a_parked_domain_is_told_from_the_service(tmp_path: Path) -> None:
    """A parked domain, which answers 200 to every path, fails for lack of the required text."""
    file = tmp_path / "endpoints.txt"
    page: Any = (200, {}, b"<html>This domain is for sale")
    with handmade(lambda asked: page) as parked, handmade(lambda asked: OK) as ours:
        ours.answer = lambda asked: (200, {}, b'{"service":"mine"}')
        file.write_text(f"ApiList:\n{parked.url}\n{ours.url}\n")
        with running(
            tmp_path,
            file,
            ENDPOINT_PROBE_INTERVAL="0.3",
            ENDPOINT_HEALTH_PATH="/alive",
            ENDPOINT_HEALTH_CONTAINS='"service":"mine"',
        ) as server:
            expected = {parked.url: "unhealthy", ours.url: "healthy"}
            wait_for(lambda: states(server) == expected, seconds=30)
            detail = found(server)[parked.url]["detail"]
            targets = server.get("/api/v1/config/targets").json
        assert set(parked.paths) == set(ours.paths) == {"/alive"}
    assert (
        detail == "bad-status: /alive answers 200, but this is not the answer of a healthy endpoint"
    )
    assert [target["targets"] for target in targets] == [[f"{u}/alive"] for u in expected]


def test_one_endpoint_that_is_up_is_no_outage(tmp_path: Path) -> None:
    """While any endpoint of a kind is up there is no outage, and an unlisted kind has none."""
    file = tmp_path / "endpoints.txt"
    port = closed_port()
    dead = [f"http://127.0.0.1:{port}/{n}" for n in range(5)]
    with handmade() as api, handmade() as hook, socket_server(tmp_path, "s", path="/ws") as sockets:
        socket_list = f"SocketList:\nws://127.0.0.1:{sockets.port}/ws\n"
        best, last = "\n".join(dead), f"{api.url} priority=9999"
        file.write_text(f"{socket_list}ApiList:\n{best}\n{last}\n")
        with running(
            tmp_path,
            file,
            ENDPOINT_PROBE_INTERVAL="0.3",
            ENDPOINT_ALERT_WEBHOOK=f"{hook.url}/hook",
        ) as server:
            wait_for(lambda: states(server).get(api.url) == "healthy", seconds=30)
            wait_for(lambda: set(states(server).values()) == {"healthy", "unhealthy"}, seconds=30)
            assert len(states(server)) == len(dead) + 2
            assert hook.asked == []
            file.write_text(f"{socket_list}ApiList:\n{best}\n")
            wait_for(lambda: told(hook) == ["endpoints.down"], seconds=30)
            file.write_text(socket_list)
            wait_for(lambda: len(told(hook)) == 2, seconds=30)
            file.write_text(f"{socket_list}ApiList:\n{dead[0]}/new\n")
            wait_for(lambda: len(told(hook)) == 3, seconds=30)
            settle(server)
        bodies = [json.loads(asked.body) for asked in hook.asked]
    assert [body["type"] for body in bodies] == [
        *("endpoints.down", "endpoints.recovered", "endpoints.down"),
    ]
    assert [body["data"]["count"] for body in bodies] == [len(dead), 0, 1]


@pytest.mark.parametrize("kind", ["sync", "asgi"])
def test_what_hangs_holds_nobody_up(kind: str, tmp_path: Path) -> None:
    """Endpoints that stall in TLS and a hanging webhook delay no request."""
    file = tmp_path / "endpoints.txt"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with https(authority) as good, silence() as port, silence() as hook:
        hanging = [f"https://127.0.0.1:{port}/{i}" for i in range(20)]
        file.write_text(
            "\n".join(["ApiList:", good.url, *hanging, "SocketList:", "http://127.0.0.1:1"])
        )
        with running(
            tmp_path,
            file,
            workers=1,
            WORKER_CLASS=kind,
            ENDPOINT_PROBE_INTERVAL="0.2",
            ENDPOINT_ALERT_WEBHOOK=f"http://127.0.0.1:{hook}/",
            SSL_CERT_FILE=str(tmp_path / "ca.pem"),
        ) as server:
            wait_for(lambda: "the Socket.io endpoints are down" in server.log, seconds=60)
            for _ in range(20):
                before = time.monotonic()
                assert server.get().status == 200
                # Sixteen endpoints are checked at a time, and each hangs for five seconds.
                assert time.monotonic() - before < 4
            wait_for(lambda: states(server)[good.url] == "healthy", what="the good one is known")
            assert server.stop() == 0
        assert "Traceback" not in server.log


def test_a_full_disk_costs_a_warning_and_nothing_else(tmp_path: Path) -> None:
    """On a full disk checks go on with one warning; later all workers report them again."""
    state = tmp_path / "state"
    file = tmp_path / "endpoints.txt"
    with small_disk(state), handmade() as api, handmade(lambda asked: DOWN) as hook:
        file.write_text(f"ApiList:\n{api.url}\n")
        with running(
            tmp_path,
            file,
            ENDPOINT_PROBE_INTERVAL="0.3",
            ENDPOINT_ALERT_WEBHOOK=hook.url,
        ) as server:
            wait_for(lambda: states(server) == {api.url: "healthy"}, seconds=20)
            fill(state / "filler")
            wait_for(lambda: "the results of the health checks cannot be saved" in server.log)
            api.answer = lambda asked: DOWN
            wait_for(lambda: hook.asked, seconds=20, what="the webhook is told")
            assert server.get().status == server.get("/ready").status == 200
            (state / "filler").unlink()
            wait_for(
                lambda: all(states(server) == {api.url: "unhealthy"} for _ in range(10)),
                seconds=20,
                what="whichever worker answers knows it",
            )
            log = server.log
    assert log.count("results of the health checks cannot be saved") == 1
    assert log.count("the alerts cannot be saved") == 1
    assert "Traceback" not in log


@contextlib.contextmanager
def started(settings: Settings) -> Iterator[ConfigService]:
    """Run an application's service with its threads in this process."""
    previous = signal.getsignal(signal.SIGHUP)
    service: ConfigService = create_app(settings).extensions["mop_config"]
    service.start()
    try:
        yield service
    finally:
        service.stop()
        signal.signal(signal.SIGHUP, previous)


def monitors() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("mop-config-monitor", "mop-config-check"))]


class TestInProcess:
    """Checks of a service in this process."""

    def test_it_is_off_by_default(self, tmp_path: Path) -> None:
        """Checks are off by default: no thread, no file, and null in the status."""
        file = tmp_path / "endpoints.txt"
        file.write_text("ApiList:\nhttp://127.0.0.1:1\n")
        settings = Settings(source=str(file), state_dir=str(tmp_path / "state"))
        with started(settings) as service:
            assert monitors() == []
            assert service.status()["health"] is None
        names = [path.name for path in (tmp_path / "state").rglob("*")]
        assert not [name for name in names if "monitor" in name or "checks" in name]

    def test_a_stop_does_not_wait_for_a_check_that_hangs(self, tmp_path: Path) -> None:
        """A stop aborts a hanging check instead of waiting for it."""
        with silence() as port:
            file = tmp_path / "endpoints.txt"
            file.write_text(f"ApiList:\nhttps://127.0.0.1:{port}\n")
            settings = Settings(
                source=str(file), state_dir=str(tmp_path / "state"), probe_interval=0.2
            )
            with started(settings):
                wait_for(lambda: len(monitors()) == 2, what="a check hangs")
                before = time.monotonic()
            assert time.monotonic() - before < 4
            wait_for(lambda: not monitors(), seconds=3, what="the check has ended")

    def test_a_second_start_checks_again(self, tmp_path: Path) -> None:
        """A second start keeps the results and checks again."""
        with handmade() as api:
            file = tmp_path / "endpoints.txt"
            file.write_text(f"ApiList:\n{api.url}\n")
            settings = Settings(
                source=str(file), state_dir=str(tmp_path / "state"), probe_interval=0.2
            )
            with started(settings) as service:
                wait_for(lambda: len(api.asked) >= 2)
                service.stop()
                count = len(api.asked)
                health: Any = service.status()["health"]
                assert [entry["state"] for entry in health["endpoints"]] == ["healthy"]
                service.start()
                wait_for(lambda: len(api.asked) > count)

    def test_without_a_state_folder_nothing_is_checked(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without a state folder every worker would check and report, so none does.

        The log says so once.
        """
        (tmp_path / "state").write_text("a file")
        with handmade() as api:
            file = tmp_path / "endpoints.txt"
            file.write_text(f"ApiList:\n{api.url}\n")
            settings = Settings(
                source=str(file), state_dir=str(tmp_path / "state"), probe_interval=0.2
            )
            with started(settings) as service:
                complaint = "the results of the health checks cannot be saved"
                wait_for(lambda: complaint in caplog.text)
                assert service.status()["health"] == {
                    "interval_seconds": 0.2,
                    "alive": False,
                    "pid": None,
                    "checked_at": None,
                    "endpoints": [],
                }
                assert api.asked == []
                (tmp_path / "state").unlink()
                wait_for(lambda: api.asked, seconds=15)
        assert caplog.text.count(complaint) == 1

    def test_an_unexpected_error_is_logged_once_in_its_own_words(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error that is not the state folder's is not reported as one, and goes on quietly."""
        turns = []

        def fail(*_: object) -> None:
            turns.append(1)
            raise ValueError("a bug")

        monkeypatch.setattr(EndpointMonitor, "turn", fail)
        settings = Settings(
            source=str(SAMPLE), state_dir=str(tmp_path / "state"), probe_interval=0.2
        )
        with started(settings) as service:
            wait_for(lambda: len(turns) > 3)
            codes = [problem["code"] for problem in service.status()["problems"]]
            assert "state-folder" not in codes
        assert caplog.text.count("no endpoint is checked now: ValueError: a bug") == 1
        assert "cannot be saved" not in caplog.text

    def test_findings_of_what_is_not_listed_are_not_shown(self, tmp_path: Path) -> None:
        """Results of unlisted endpoints are not shown.

        Saved results can be older than the list, if the checking worker cannot write.
        """
        file = tmp_path / "endpoints.txt"
        file.write_text("ApiList:\nhttps://a.example\n")
        settings = Settings(source=str(file), state_dir=str(tmp_path / "s"), probe_interval=30)
        service: ConfigService = create_app(settings, start=False).extensions["mop_config"]
        service.load()
        schedule = ProbeSchedule(rules(30), lambda: 0.5)
        named = {name: Endpoint.parse(f"https://{name}.example") for name in ("a", "gone")}
        schedule.follow({Kind.API: [*named.values()], Kind.SOCKETIO: [named["a"]]}, 0.0, 0.0)
        service._monitor.results.write(schedule.results())
        health_now: Any = service.status()["health"]
        shown = health_now["endpoints"]
        assert [(e["kind"], e["url"]) for e in shown] == [("api", "https://a.example")]

    def test_a_state_folder_that_vanishes_ends_no_checks(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A removed state folder is created again, with at most one warning, and checks go on."""
        with handmade() as api:
            file = tmp_path / "endpoints.txt"
            file.write_text(f"ApiList:\n{api.url}\n")
            state = tmp_path / "state"
            settings = Settings(source=str(file), state_dir=str(state), probe_interval=0.2)
            with started(settings):
                wait_for(lambda: api.asked, seconds=30, what="the first check")
                state.rename(tmp_path / "away")
                wait_for(lambda: list(state.rglob("*.probes.json")))
                count = len(api.asked)
                wait_for(lambda: len(api.asked) > count + 2)
                wait_for(lambda: list(state.rglob("*.worker.*")))
        assert caplog.text.count("the results of the health checks cannot be saved") <= 1
