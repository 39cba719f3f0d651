"""The alert webhook: level-triggered messages, signed, retried, and never a secret in the log."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config import Endpoint
from mop_config.health.probe import ProbeResult
from mop_config.model.endpoint import Kind
from mop_config.net.connect import DialOptions
from mop_config.net.faults import Fault
from mop_config.net.http import HttpClient, backoff
from mop_config.server.monitor import alerts
from mop_config.server.monitor.alerts import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    NAMED,
    Alert,
    OutageNotifier,
    change,
    headers,
    is_down,
    load,
    new_alert,
    sign,
)
from mop_config.server.monitor.schedule import ProbeSchedule, rules
from mop_config.server.settings import Settings
from mop_config.server.state.directory import StateDirectory, dump_record

from ...client.fleet import silence
from ...client.handmade import NOBODY, OK, Answer, Asked, handmade
from ...ports import closed_port
from ...servers import ROOT
from ...waiting import wait_for

DELIVERED = ProbeResult(None, 0.1, "answers 200", status=200)
FAILED = ProbeResult(Fault.BAD_STATUS, 0.1, "answers 500", status=500)
URLS = ["https://a.example"]


def switch(alert: Alert, *, down: bool, now: float = 5.0) -> str:
    """Set the kind down or up, and return the type of the message that is due."""
    change(alert, URLS, "s", down=down, now=now)
    return due(alert)


def due(alert: Alert) -> str:
    return json.loads(alert["body"])["type"] if alert["told"] is not is_down(alert) else ""


def acknowledge(alert: Alert, *, down: bool) -> None:
    alert["told"] = down


class TestAlert:
    """An alert compares the last acknowledged state with the present state."""

    def test_a_message_says_what_happened(self) -> None:
        """A message has type, time and data as Standard Webhooks recommends, and is small."""
        alert = new_alert(Kind.API)
        urls = [f"https://{'x' * 60}{i}.example" for i in range(100)]
        change(alert, urls, "mop-api", down=True, now=1.5)
        assert json.loads(alert["body"]) == {
            "type": "endpoints.down",
            "timestamp": "1970-01-01T00:00:01.500Z",
            "data": {
                "service": "mop-api",
                "kind": "api",
                "down_since": "1970-01-01T00:00:01.500Z",
                "count": 100,
                "urls": urls[:NAMED],
            },
        }
        assert len(alert["body"]) < 20_000
        page = (ROOT / "docs" / "webhook.md").read_text()
        shown = json.loads(page.split("```json\n")[1].split("```")[0])
        message_now = json.loads(alert["body"])
        assert list(shown) == list(message_now)
        assert list(shown["data"]) == list(message_now["data"])

    def test_an_outage_and_its_end_are_due_until_they_are_acknowledged(self) -> None:
        """The end names the time at which the outage began."""
        alert = new_alert(Kind.API)
        assert due(alert) == ""
        assert switch(alert, down=True, now=10.0) == "endpoints.down"
        first = alert["id"]
        acknowledge(alert, down=True)
        assert due(alert) == ""
        assert is_down(alert)
        assert switch(alert, down=False, now=20.0) == "endpoints.recovered"
        assert alert["id"] != first
        message = json.loads(alert["body"])
        assert message["timestamp"] == "1970-01-01T00:00:20.000Z"
        assert message["data"]["down_since"] == "1970-01-01T00:00:10.000Z"
        acknowledge(alert, down=False)
        assert due(alert) == ""

    def test_an_outage_that_ends_before_an_attempt_is_never_told(self) -> None:
        """An outage that ends before the first attempt causes no message; the next outage does."""
        alert = new_alert(Kind.API)
        switch(alert, down=True)
        assert switch(alert, down=False) == ""
        assert switch(alert, down=True) == "endpoints.down"

    def test_after_an_attempt_the_end_is_told_in_any_case(self) -> None:
        """After an attempt the end is sent, since the first message may have arrived."""
        alert = new_alert(Kind.API)
        switch(alert, down=True)
        alert["told"] = None
        assert switch(alert, down=False) == "endpoints.recovered"
        # The acknowledgement of the first message comes late.
        acknowledge(alert, down=True)
        assert due(alert) == "endpoints.recovered"
        acknowledge(alert, down=False)
        assert due(alert) == ""

    def test_a_late_acknowledgement_of_the_same_state_is_enough(self) -> None:
        """The kind went down again while the message of the first outage was under way."""
        alert = new_alert(Kind.API)
        switch(alert, down=True)
        alert["told"] = None
        switch(alert, down=False)
        assert switch(alert, down=True) == "endpoints.down"
        acknowledge(alert, down=True)
        assert due(alert) == ""

    @given(st.lists(st.sampled_from(["down", "up", "send", "arrive", "lose"]), max_size=30))
    def test_whatever_happens_the_webhook_learns_the_state_at_last(self, events: list[str]) -> None:
        """A due message has the present state, and the webhook learns that state at last."""
        alert, heard = new_alert(Kind.API), False
        under_way: bool | None = None
        for event in [*events, "lose", "send", "arrive"]:
            if event in {"down", "up"}:
                if (event == "down") != is_down(alert):
                    switch(alert, down=event == "down")
            elif event == "send" and under_way is None and due(alert):
                assert (due(alert) == "endpoints.down") is is_down(alert)
                under_way, alert["told"] = is_down(alert), None
            elif event == "arrive" and under_way is not None:
                heard, under_way = under_way, None
                acknowledge(alert, down=heard)
            elif event == "lose" and under_way is not None:
                # The receiver has the message, but its response is lost.
                heard, under_way = under_way, None
        assert heard is is_down(alert)
        assert due(alert) == ""

    def test_it_outlives_the_process(self) -> None:
        """The record keeps the id of the message; a kind that is missing in it is not down."""
        alert = new_alert(Kind.SOCKETIO)
        switch(alert, down=True)
        alert["told"] = None
        data = dump_record({"alerts": [alert]})
        assert load(data) == {Kind.API: new_alert(Kind.API), Kind.SOCKETIO: alert}

    def test_what_is_foreign_is_refused(self, tmp_path: Path) -> None:
        """A record that mop-config has not written is ignored, whatever it looks like."""
        alert = new_alert(Kind.API)
        switch(alert, down=True)
        good = {"alerts": [alert]}
        broken: list[Any] = [None, [], "x", 1, {}]
        odd: list[Any] = [None, [1], [[]], [{}]]
        broken += [{**good, "alerts": kept} for kept in odd]
        values: list[Any] = [[1], {}, 1.5, -1, float("nan")]
        for name in alert:
            broken.append({**good, "alerts": [{k: v for k, v in alert.items() if k != name}]})
            broken += [
                {**good, "alerts": [{**alert, name: value}]}
                for value in values
                if not (name == "down_since" and isinstance(value, (int, float)))
            ]
        texts = [json.dumps(record).encode() for record in broken]
        for text in (*texts, b"", b"{", b"\xff", b"[" * 100_000):
            (tmp_path / "alerts").write_bytes(text)
            assert StateDirectory(tmp_path).load("alerts", load, "the alerts") is None


def test_a_message_is_retried_ever_less_often() -> None:
    """The pause doubles up to ten minutes."""
    pauses = [backoff(failures, FIRST_PAUSE, LONGEST_PAUSE) for failures in range(1, 200)]
    assert pauses[:4] == [2.0, 4.0, 8.0, 16.0]
    assert max(pauses) == pauses[-1] == 600.0


class TestSignature:
    """The signature follows Standard Webhooks, version 1."""

    def test_it_is_that_of_the_specification(self) -> None:
        """The signature equals that of the reference libraries' test message."""
        secret = Settings.from_environ(
            {"ENDPOINT_ALERT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
        ).alert_secret
        parts = ["msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", '{"test": 2432232314}']
        assert sign(parts, secret) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_without_a_secret_there_is_none(self) -> None:
        """Without a secret there is no signature; the timestamp is that of the attempt."""
        message: Alert = {**new_alert(Kind.API), "id": "abc", "body": "{}"}
        assert headers(message, b"", 99.9) == {
            "Content-Type": "application/json",
            "webhook-id": "abc",
            "webhook-timestamp": "99",
        }
        assert headers(message, b"k", 99.9)["webhook-signature"].startswith("v1,")


class Desk:
    """The notifier of one worker, with one endpoint that the test sets up or down."""

    def __init__(self, folder: Path, url: str | None, secret: bytes = b"") -> None:
        settings = Settings(alert_webhook=url, alert_secret=secret)
        self.client = HttpClient(DialOptions(NOBODY, alerts.TIMEOUT))
        self.notifier = OutageNotifier(StateDirectory(folder), "alerts", settings, self.client)
        self.schedule = ProbeSchedule(rules(1.0), lambda: 0.5)
        listed = {Kind.API: [Endpoint("https://a.example")], Kind.SOCKETIO: []}
        self.schedule.follow(listed, 0.0, 0.0)

    def turn(self) -> None:
        self.notifier.turn(self.schedule)

    def close(self) -> None:
        self.client.abort()
        self.notifier.close()

    @property
    def busy(self) -> bool:
        attempt = self.notifier._attempt
        return attempt is not None and not attempt.done()

    def set(self, *, up: bool) -> None:
        result = DELIVERED if up else FAILED
        for _ in range(3):
            (watched,) = self.schedule.due(1e9)
            self.schedule.record(watched, result, 0.0, 0.0)

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        def turn() -> object:
            self.turn()
            return condition()

        wait_for(turn, what=what)


@contextmanager
def desk(folder: Path, url: str | None, secret: bytes = b"") -> Iterator[Desk]:
    own = Desk(folder, url, secret)
    try:
        yield own
    finally:
        own.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.cls is TestWebhook:
        monkeypatch.setattr(alerts, "FIRST_PAUSE", 0.02)
        monkeypatch.setattr(alerts, "LONGEST_PAUSE", 0.05)


def kinds(server: Any) -> list[str]:
    return [json.loads(asked.body)["type"] for asked in server.asked]


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


class TestWebhook:
    """The notifier against a real HTTP server."""

    def test_it_is_told_once_and_signed(self, tmp_path: Path) -> None:
        """Each change is sent once and signed, also if another worker takes over."""
        secret = b"0123456789abcdef01234567"
        with handmade() as server:
            url = f"{server.url}/hook/T0P/?key=S3CRET"
            with desk(tmp_path, url, secret) as first:
                first.turn()
                first.set(up=False)
                first.until(lambda: server.asked)
                first.until(lambda: not first.busy)
                first.turn()
            with desk(tmp_path, url, secret) as second:
                second.set(up=False)
                second.turn()
                second.turn()
                second.set(up=True)
                second.until(lambda: len(server.asked) == 2)
                second.until(lambda: not second.busy)
                second.turn()
            assert kinds(server) == ["endpoints.down", "endpoints.recovered"]
            for asked in server.asked:
                assert (asked.method, asked.path) == ("POST", "/hook/T0P/?key=S3CRET")
                assert asked.header("content-type") == "application/json"
                about = [asked.header(f"webhook-{name}") or "" for name in ("id", "timestamp")]
                assert asked.header("webhook-signature") == sign(
                    [*about, asked.body.decode()], secret
                )
                assert abs(int(about[1]) - time.time()) < 60
            first_id, second_id = (asked.header("webhook-id") for asked in server.asked)
            assert first_id != second_id

    def test_it_is_tried_until_it_answers_under_one_id(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After errors and redirects a message is retried with one id, and no secret is logged."""
        answers: list[Answer] = [
            (500, {}, b""),
            (302, {"Location": "/elsewhere"}, b""),
            (404, {}, b""),
        ]

        def answer(asked: Asked) -> Answer:
            return answers.pop(0) if answers else (204, {}, b"")

        with handmade(answer) as server, desk(tmp_path, f"{server.url}/T0P?k=S3CRET") as own:
            own.set(up=False)
            own.until(lambda: len(server.asked) == 4 and not own.busy)
            assert set(server.paths) == {"/T0P?k=S3CRET"}
            assert len({asked.header("webhook-id") for asked in server.asked}) == 1
            assert server.asked[0].header("webhook-signature") is None
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [
            "the API endpoints are down: ['https://a.example']",
            "the alert webhook at 127.0.0.1 did not accept a message: answers 500; it is"
            " retried until it is accepted or the state changes",
        ]

    def test_an_outage_that_ends_while_the_webhook_fails_is_told_by_its_end(
        self, tmp_path: Path
    ) -> None:
        """No outage is sent after its end, and the end is retried until it is acknowledged."""
        with handmade(lambda asked: (500, {}, b"")) as server, desk(tmp_path, server.url) as own:
            own.set(up=False)
            own.until(lambda: len(server.asked) > 1)
            own.set(up=True)
            own.until(lambda: kinds(server)[-1] == "endpoints.recovered" and not own.busy)
            server.answer = lambda asked: OK
            count = len(server.asked)
            own.until(lambda: len(server.asked) > count and not own.busy)
            own.turn()
            sent = kinds(server)
            assert sent == sorted(sent), "endpoints.down comes before endpoints.recovered"
            assert len(sent) == count + 1
            assert len({asked.header("webhook-id") for asked in server.asked}) == 2

    def test_a_state_is_told_at_the_next_turn(self, tmp_path: Path) -> None:
        """An outage, its end and the next outage are sent once each, at the next turn."""
        with handmade() as server, desk(tmp_path, server.url) as own:
            for number, up in enumerate([False, True, False], 1):
                own.set(up=up)
                own.turn()
                wait_for(partial(self._has_asked, server, number))
                own.until(lambda: not own.busy)
                own.turn()
            assert kinds(server) == ["endpoints.down", "endpoints.recovered", "endpoints.down"]

    @staticmethod
    def _has_asked(server: Any, number: int) -> bool:
        return len(server.asked) == number

    def test_a_change_during_an_attempt_is_told_after_it(self, tmp_path: Path) -> None:
        """A change during an attempt is sent after it, so that messages stay in order."""
        gate = threading.Event()

        def answer(asked: Asked) -> Answer:
            gate.wait(10)
            return OK

        with handmade(answer) as server, desk(tmp_path, server.url) as own:
            own.set(up=False)
            own.until(lambda: server.asked)
            own.set(up=True)
            for _ in range(3):
                own.turn()
            assert kinds(server) == ["endpoints.down"]
            gate.set()
            own.until(lambda: len(server.asked) == 2 and not own.busy)
            assert kinds(server) == ["endpoints.down", "endpoints.recovered"]

    def test_a_state_that_is_not_known_any_more_is_not_told(self, tmp_path: Path) -> None:
        """A message is not retried while the state is unknown, such as for another endpoint."""
        with handmade(lambda asked: (500, {}, b"")) as server, desk(tmp_path, server.url) as own:
            own.set(up=False)
            own.until(lambda: server.asked and not own.busy)
            listed = {Kind.API: [Endpoint("https://b.example")], Kind.SOCKETIO: []}
            own.schedule.follow(listed, 0.0, 0.0)
            count = len(server.asked)
            for _ in range(5):
                time.sleep(alerts.LONGEST_PAUSE)
                own.turn()
            assert len(server.asked) == count
            own.set(up=False)
            own.until(lambda: len(server.asked) > count)

    def test_an_attempt_that_another_worker_made_in_vain_is_gone_on_with(
        self, tmp_path: Path
    ) -> None:
        """Another worker retries a failed message with the same id."""
        with handmade(lambda asked: (500, {}, b"")) as server:
            with desk(tmp_path, server.url) as first:
                first.set(up=False)
                first.until(lambda: server.asked and not first.busy)
            server.answer = lambda asked: OK
            count = len(server.asked)
            with desk(tmp_path, server.url) as second:
                second.set(up=False)
                second.until(lambda: len(server.asked) > count and not second.busy)
                second.turn()
            assert len({asked.header("webhook-id") for asked in server.asked}) == 1

    def test_a_webhook_that_hangs_is_called_off(self, tmp_path: Path) -> None:
        """``close`` cancels an attempt that hangs."""
        with silence() as port, desk(tmp_path, f"http://127.0.0.1:{port}/") as own:
            own.set(up=False)
            own.turn()
            assert own.busy
            own.close()
            own.until(lambda: not own.busy)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_one_that_is_not_there_is_a_line(
        self, scheme: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A refused connection or a failed TLS handshake is one log line without the URL's path."""
        with handmade() as server:
            port = closed_port() if scheme == "http" else server.port
            with desk(tmp_path, f"{scheme}://127.0.0.1:{port}/S3CRET") as own:
                own.set(up=False)
                own.until(lambda: "did not accept" in caplog.text)
        assert ("refused" if scheme == "http" else "tls") in caplog.text
        assert "S3CRET" not in caplog.text

    def test_without_a_webhook_there_is_the_log(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without a webhook outages are logged, and no record is written.

        A kind that is down may also leave the list; that it is back would be wrong.
        """
        caplog.set_level(logging.INFO)
        with desk(tmp_path, None) as own:
            for up in (False, True, False):
                own.set(up=up)
                own.turn()
                own.turn()
            own.schedule.follow({Kind.SOCKETIO: [Endpoint("https://b.example")]}, 0.0, 0.0)
            own.turn()
        down = ("WARNING", "the API endpoints are down: ['https://a.example']")
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            down,
            ("INFO", "the API endpoints are back: ['https://a.example']"),
            down,
            ("INFO", "the API endpoints are no longer listed"),
        ]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["", "{", "[1]", "\xff\xfe", "[" * 100_000])
    def test_a_damaged_file_is_ignored(
        self, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A damaged record is ignored with a warning and then replaced."""
        (tmp_path / "alerts").write_text(text)
        with handmade() as server:
            with desk(tmp_path, server.url) as own:
                own.set(up=False)
                own.until(lambda: server.asked and not own.busy)
            assert "is ignored" in caplog.text
            with desk(tmp_path, server.url) as again:
                again.set(up=False)
                again.turn()
            assert len(server.asked) == 1

    def test_a_folder_without_room_costs_one_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the record cannot be written, there is one warning, and the messages are sent."""
        (tmp_path / "gone").write_text("a file in its place")
        with handmade() as server, desk(tmp_path / "gone", server.url) as own:
            own.set(up=False)
            own.until(lambda: len(server.asked) == 1 and not own.busy)
            own.set(up=True)
            own.until(lambda: len(server.asked) == 2 and not own.busy)
        assert caplog.text.count("cannot be saved") == 1

    def test_no_proxy_of_the_environment_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The message is sent directly, not by a proxy of the environment."""
        with handmade() as proxy, handmade() as server, desk(tmp_path, server.url) as own:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            own.set(up=False)
            own.until(lambda: server.asked and not own.busy)
            assert proxy.asked == []
