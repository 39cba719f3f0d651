"""What the alert webhook is told: once, signed, again where it must, and never a secret."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mop_config import Endpoint
from mop_config.health.probe import ProbeResult
from mop_config.net.faults import Fault
from mop_config.server.monitor.errands import WorkerThreads
from mop_config.server.monitor.outbox import NAMED, Fate, Message, Outbox, Patience, headers, sign
from mop_config.server.monitor.schedule import ProbeSchedule, rules
from mop_config.server.monitor.webhook import OutageNotifier
from mop_config.server.settings import Settings
from mop_config.server.sources.wakeup import Wakeup

from ..client.fleet import silence
from ..client.handmade import NOBODY, OK, Answer, Asked, handmade
from ..ports import closed_port
from ..servers import ROOT
from ..waiting import wait_for

DELIVERED = ProbeResult(None, 0.1, "answers 200", status=200)
FAILED = ProbeResult(Fault.BAD_STATUS, 0.1, "answers 500", status=500)


def put(box: Outbox, name: str, *, down: bool, now: float, kind: str = "api") -> None:
    since = box.note(kind, down=down, now=now)
    box.put(name, kind, ["https://a.example"], down=down, since=since, now=now)


class TestOutbox:
    """Which message is sent when."""

    def test_each_change_is_news_once(self) -> None:
        """What is not known is none."""
        box = Outbox(Patience(), "s")
        assert box.news({}) == box.news({"api": False}) == []
        assert box.news({"api": True, "socketio": False}) == [("api", True)]
        assert box.note("api", down=True, now=5.0) == 5.0
        assert box.news({"api": True}) == box.news({}) == []
        assert box.news({"api": False}) == [("api", False)]
        assert box.note("api", down=False, now=9.0) == 5.0
        assert box.news({"api": False}) == []

    def test_a_message_says_what_happened(self) -> None:
        """Type, time and data, as Standard Webhooks recommends; small enough."""
        box = Outbox(Patience(), "mop-api")
        urls = [f"https://{'x' * 60}{i}.example" for i in range(100)]
        box.put("id1", "api", urls, down=True, since=1.5, now=1.5)
        (message,) = box.due(1.5)
        assert json.loads(message.body) == {
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
        assert len(message.body) < 20_000
        page = (ROOT / "docs" / "webhook.md").read_text()
        shown = json.loads(page.split("```json\n")[1].split("```")[0])
        message_now = json.loads(message.body)
        assert list(shown) == list(message_now)
        assert list(shown["data"]) == list(message_now["data"])

    def test_an_outage_is_told_before_its_end(self) -> None:
        """Of the same kind, however long that takes; another kind does not wait."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=10)
        put(box, "other", down=True, now=10, kind="socketio")
        first, other = box.due(10)
        assert box.due(10) == []
        put(box, "back", down=False, now=20)
        assert box.settle(first, FAILED, 21, 0.0) is Fate.TROUBLE
        assert box.settle(other, DELIVERED, 21, 0.5) is Fate.DELIVERED
        assert box.due(22) == []
        box.restore(json.loads(json.dumps(box.record())))
        (again,) = box.due(23)
        assert again.id == "down"
        assert box.settle(again, DELIVERED, 24, 0.5) is Fate.DELIVERED
        assert box.wait(24) == 0
        (second,) = box.due(24)
        assert (second.id, json.loads(second.body)["type"]) == ("back", "endpoints.recovered")
        assert json.loads(second.body)["data"]["down_since"] == "1970-01-01T00:00:10.000Z"
        assert box.settle(second, DELIVERED, 25, 0.5) is Fate.DELIVERED
        assert box.wait(25) == float("inf")

    @pytest.mark.parametrize("told", [False, True])
    @pytest.mark.parametrize("changes", range(1, 9))
    def test_no_more_than_an_outage_and_its_end_wait(self, changes: int, told: bool) -> None:
        """Nobody hears of an end who has not heard of the outage."""
        box = Outbox(Patience(), "s")
        put(box, "0down", down=True, now=0)
        if told:
            (message,) = box.due(0)
            box.settle(message, DELIVERED, 0, 0.0)
        for number in range(1, changes + 1):
            put(box, f"{number}x", down=number % 2 == 0, now=number)
        heard = []
        while due := box.due(100):
            heard.append(due[0])
            box.settle(due[0], DELIVERED, 100, 0.0)
        assert 1 <= len(heard) <= 2
        assert [m.id for m in heard] == sorted(m.id for m in heard)
        assert heard[-1].id == f"{changes}x"
        assert told or heard[0].down
        assert told or [m.down for m in heard] == [True, False][: len(heard)]

    def test_one_whose_place_is_taken_is_not_tried_again(self) -> None:
        """While it was under way."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=10)
        (first,) = box.due(10)
        put(box, "back", down=False, now=20)
        put(box, "again", down=True, now=30)
        assert box.settle(first, FAILED, 31, 0.5) is Fate.SUPERSEDED
        assert [message.id for message in box.due(31)] == ["again"]

    @pytest.mark.parametrize("early", [False, True])
    def test_the_end_of_an_outage_that_is_given_up_goes_with_it(self, early: bool) -> None:
        """Whether it comes before or after that; the next outage is told."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=10)
        if early:
            put(box, "back", down=False, now=20)
        (first,) = box.due(100_000)
        assert box.settle(first, FAILED, 100_000, 0.5) is Fate.GIVEN_UP
        box.restore(json.loads(json.dumps(box.record())))
        if not early:
            put(box, "back", down=False, now=100_001)
        assert box.wait(100_002) == float("inf")
        put(box, "again", down=True, now=100_003)
        put(box, "over", down=False, now=100_004)
        for name in ("again", "over"):
            (message,) = box.due(100_005)
            assert message.id == name
            box.settle(message, DELIVERED, 100_005, 0.5)

    def test_what_an_earlier_version_kept_is_read(self) -> None:
        """It did not say what was given up."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=10)
        record = box.record()
        del record["untold"]
        again = Outbox(Patience(), "s")
        again.restore(record)
        assert [message.id for message in again.due(10)] == ["down"]

    def test_a_message_that_arrives_late_leaves_the_newer_one_alone(self) -> None:
        """Both are told."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=10)
        (first,) = box.due(10)
        put(box, "back", down=False, now=20)
        assert box.settle(first, DELIVERED, 21, 0.5) is Fate.DELIVERED
        assert [message.id for message in box.due(21)] == ["back"]

    @pytest.mark.parametrize("chance", [0.0, 1.0])
    def test_it_is_tried_ever_less_often_for_a_day(self, chance: float) -> None:
        """Under one id; then it is given up."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=0)
        now, gaps, fates = 0.0, [], []
        while (wait := box.wait(now)) < float("inf"):
            gaps.append(wait)
            now += wait
            (message,) = box.due(now)
            assert message.id == "down"
            fates.append(box.settle(message, FAILED, now, chance))
        share = 1 - chance / 2
        assert gaps[:5] == [0, 2 * share, 4 * share, 8 * share, 16 * share]
        assert max(gaps) == 600 * share
        assert 85_000 < now <= 86_400
        assert fates[0] is Fate.TROUBLE
        assert set(fates[1:-1]) == {Fate.WAITING}
        assert fates[-1] is Fate.GIVEN_UP
        assert "api" in box.down, "it is not told as news again"

    def test_the_webhook_may_ask_for_time_or_for_silence(self) -> None:
        """Retry-After, up to what we would wait ourselves; and 410."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=0)
        for asked, waits in [("300", 300), ("999999", 600), ("soon", 8), ("٣٠٠", 16)]:
            (message,) = box.due(1e9)
            box.settle(message, FAILED._replace(retry_after=asked), 0, 0.0)
            assert box.wait(0) == waits
        (message,) = box.due(1e9)
        gone = ProbeResult(Fault.BAD_STATUS, 0.1, "answers 410", status=410)
        assert box.settle(message, gone, 0, 0.0) is Fate.GIVEN_UP

    def test_a_clock_that_is_set_back_holds_nothing_up_for_long(self) -> None:
        """No longer than the longest pause."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=1e9)
        assert box.wait(1000.0) == 600

    def test_it_outlives_the_process(self) -> None:
        """With its id and its count; nothing is told twice."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=10)
        (message,) = box.due(10)
        box.settle(message, FAILED, 10, 0.0)
        again = Outbox(Patience(), "s")
        again.restore(json.loads(json.dumps(box.record())))
        assert again.news({"api": True}) == []
        assert again.wait(10) == 2
        assert again.due(12) == [message]

    def test_what_is_foreign_is_refused_whole(self) -> None:
        """Member by member."""
        box = Outbox(Patience(), "s")
        put(box, "down", down=True, now=10)
        good = box.record()
        (entry,) = good["pending"]
        broken: list[Any] = [None, [], "x", 1, {}, {**good, "format": 2}]
        broken += [{**good, "down": down} for down in ({"ftp": 1}, {"api": "x"}, {"api": -1}, [1])]
        odd: list[Any] = [1, [1], [{}], [{**entry, "x": 1}]]
        broken += [{**good, "pending": pending} for pending in odd]
        for name in entry:
            broken.append({**good, "pending": [{k: v for k, v in entry.items() if k != name}]})
            broken[-1]["pending"][0].update({"attempts": "1"})
            broken.append({**good, "pending": [{**entry, name: [1]}]})
        broken.append({**good, "pending": [{**entry, "id": "a.b"}]})
        broken.append({**good, "pending": [{**entry, "body": "{}"}]})
        broken += [{**good, "untold": untold} for untold in (["ftp"], 1)]
        broken.append({**good, "pending": [{**entry, "id": "a\r\nb"}]})
        broken.append({**good, "pending": [{**entry, "next_at": float("nan")}]})
        for record in broken:
            other = Outbox(Patience(), "s")
            with pytest.raises(ValueError, match=r"."):
                other.restore(record)
            assert (other.down, other.wait(0)) == ({}, float("inf"))


class TestSignature:
    """Standard Webhooks, version 1."""

    def test_it_is_that_of_the_specification(self) -> None:
        """The reference libraries are tested with this message."""
        secret = Settings.from_environ(
            {"ENDPOINT_ALERT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
        ).alert_secret
        parts = ["msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", '{"test": 2432232314}']
        assert sign(parts, secret) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_without_a_secret_there_is_none(self) -> None:
        """The time is that of the attempt."""
        message = Message("abc", "api", 5.0, "{}")
        assert headers(message, b"", 99.9) == {
            "Content-Type": "application/json",
            "webhook-id": "abc",
            "webhook-timestamp": "99",
        }
        assert headers(message, b"k", 99.9)["webhook-signature"].startswith("v1,")


class Desk:
    """Alerts of one worker, with a list whose endpoint is up or down as the test says."""

    def __init__(self, folder: Path, url: str | None, secret: bytes = b"") -> None:
        settings = Settings(alert_webhook=url, alert_secret=secret)
        self.wake = Wakeup()
        self.errands = WorkerThreads(self.wake)
        patience = Patience(first=0.02, most=0.05)
        self.alerts = OutageNotifier(folder / "alerts", settings, NOBODY, self.errands, patience)
        self.probing = ProbeSchedule(rules(1.0), lambda: 0.5)
        self.probing.follow({"api": [Endpoint("https://a.example")], "socketio": []}, 0.0, 0.0)

    def turn(self) -> None:
        self.alerts.look(self.probing)
        self.alerts.send()
        self.errands.finish()

    def set(self, *, up: bool) -> None:
        result = DELIVERED if up else FAILED
        for _ in range(3):
            (watched,) = self.probing.due(1e9, 1)
            self.probing.record(watched, result, 0.0, 0.0)

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        def turn() -> object:
            self.turn()
            return condition()

        wait_for(turn, what=what)

    def close(self) -> None:
        self.alerts.abort()
        self.errands.close()
        self.wake.close()


@contextmanager
def desk(folder: Path, url: str | None, secret: bytes = b"") -> Iterator[Desk]:
    own = Desk(folder, url, secret)
    try:
        yield own
    finally:
        own.close()


class TestErrands:
    """Work in threads of its own."""

    def test_a_result_reaches_whoever_waits(self) -> None:
        """When it asks; meanwhile it sleeps."""
        wake = Wakeup()
        errands, results = WorkerThreads(wake), list[Any]()
        errands.run("check", lambda: 7, results.append)
        assert wake.wait(10)
        assert (errands.running, results) == (1, [])
        assert errands.finish() == 1
        assert (errands.running, results) == (0, [7])
        errands.close()
        wake.close()

    @pytest.mark.parametrize("broken", ["work", "thread"])
    def test_what_cannot_be_done_ends_too(
        self, broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With one line, in which no word of a URL is."""

        def fail(*about: Any) -> None:
            raise RuntimeError("can't start new thread" if broken == "thread" else "S3CRET")

        if broken == "thread":
            monkeypatch.setattr("threading.Thread.start", fail)
        wake = Wakeup()
        errands, results = WorkerThreads(wake), list[Any]()
        for count in range(1, 4):
            errands.run("check", fail, results.append)
            wait_for(errands.finish)
            assert (errands.running, results) == (0, [None] * count)
        assert len(caplog.records) == 1
        assert "S3CRET" not in caplog.text
        errands.close()
        wake.close()

    def test_whoever_has_gone_is_not_woken(self) -> None:
        """The pipe may be somebody else's by then."""
        wake = Wakeup()
        errands, gate = WorkerThreads(wake), threading.Event()
        errands.run("check", gate.wait, lambda result: None)
        errands.close()
        gate.set()
        wait_for(errands.finish)
        assert wake.wait(0) == b""
        wake.close()


def kinds(server: Any) -> list[str]:
    return [json.loads(asked.body)["type"] for asked in server.asked]


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


class TestWebhook:
    """A real one."""

    def test_it_is_told_once_and_signed(self, tmp_path: Path) -> None:
        """However often it is looked at, and by whom."""
        secret = b"0123456789abcdef01234567"
        with handmade() as server:
            url = f"{server.url}/hook/T0P/?key=S3CRET"
            with desk(tmp_path, url, secret) as first:
                first.turn()
                first.set(up=False)
                first.until(lambda: server.asked)
                first.until(lambda: not first.errands.running)
                first.turn()
            with desk(tmp_path, url, secret) as second:
                second.set(up=False)
                second.turn()
                second.set(up=True)
                second.until(lambda: len(server.asked) == 2)
                second.until(lambda: not second.errands.running)
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
        """Errors and redirects are no answer; no line for each, and no secret in any."""
        answers: list[Answer] = [
            (500, {}, b""),
            (302, {"Location": "/elsewhere"}, b""),
            (404, {}, b""),
        ]

        def answer(asked: Asked) -> Answer:
            return answers.pop(0) if answers else (204, {}, b"")

        with handmade(answer) as server, desk(tmp_path, f"{server.url}/T0P?k=S3CRET") as own:
            own.set(up=False)
            own.until(lambda: len(server.asked) == 4 and not own.errands.running)
            assert set(server.paths) == {"/T0P?k=S3CRET"}
            assert len({asked.header("webhook-id") for asked in server.asked}) == 1
            assert server.asked[0].header("webhook-signature") is None
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [
            "every API endpoint is down (1 checked)",
            "the alert webhook at 127.0.0.1 cannot be told: bad-status, answers 500;"
            " it is tried again",
            "the alert webhook at 127.0.0.1 was told at last",
        ]

    def test_an_outage_that_ends_while_nobody_hears_is_told_whole(self, tmp_path: Path) -> None:
        """In order, each once."""
        with handmade(lambda asked: (500, {}, b"")) as server, desk(tmp_path, server.url) as own:
            own.set(up=False)
            own.until(lambda: len(server.asked) > 1)
            own.set(up=True)
            own.until(lambda: server.asked and not own.errands.running)
            server.answer = lambda asked: OK
            own.until(lambda: kinds(server)[-1] == "endpoints.recovered")
            own.until(lambda: not own.errands.running)
            own.turn()
            ids = [asked.header("webhook-id") for asked in server.asked]
            assert kinds(server)[-2:] == ["endpoints.down", "endpoints.recovered"]
            assert kinds(server).count("endpoints.recovered") == 1
            assert len(set(ids)) == 2

    def test_an_attempt_that_another_worker_made_in_vain_is_gone_on_with(
        self, tmp_path: Path
    ) -> None:
        """Under the same id."""
        with handmade(lambda asked: (500, {}, b"")) as server:
            with desk(tmp_path, server.url) as first:
                first.set(up=False)
                first.until(lambda: server.asked and not first.errands.running)
            server.answer = lambda asked: OK
            count = len(server.asked)
            with desk(tmp_path, server.url) as second:
                second.until(lambda: len(server.asked) > count and not second.errands.running)
                second.turn()
            assert len({asked.header("webhook-id") for asked in server.asked}) == 1

    def test_a_webhook_that_hangs_is_called_off(self, tmp_path: Path) -> None:
        """Stopping does not wait for it."""
        with silence() as port, desk(tmp_path, f"http://127.0.0.1:{port}/") as own:
            own.set(up=False)
            own.turn()
            assert own.errands.running == 1
            own.alerts.abort()
            own.until(lambda: not own.errands.running)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_one_that_is_not_there_is_a_line(
        self, scheme: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Also where TLS should be and is none."""
        with handmade() as server:
            port = closed_port() if scheme == "http" else server.port
            with desk(tmp_path, f"{scheme}://127.0.0.1:{port}/S3CRET") as own:
                own.set(up=False)
                own.until(lambda: "cannot be told" in caplog.text)
        assert ("refused" if scheme == "http" else "tls") in caplog.text
        assert "S3CRET" not in caplog.text

    def test_without_a_webhook_there_is_the_log(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And no file."""
        with desk(tmp_path, None) as own:
            for up in (False, True):
                own.set(up=up)
                own.turn()
                own.turn()
        assert [record.getMessage() for record in caplog.records] == [
            "every API endpoint is down (1 checked)",
            "there is a healthy API endpoint again: https://a.example",
        ]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["", "{", "[1]", "\xff\xfe", "[" * 100_000])
    def test_a_damaged_file_is_ignored(
        self, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With a warning; then it is written anew."""
        (tmp_path / "alerts").write_text(text)
        with handmade() as server:
            with desk(tmp_path, server.url) as own:
                own.set(up=False)
                own.until(lambda: server.asked and not own.errands.running)
            assert "it is ignored" in caplog.text
            with desk(tmp_path, server.url) as again:
                again.set(up=False)
                again.turn()
            assert len(server.asked) == 1

    def test_a_folder_without_room_costs_one_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The webhook is told all the same."""
        with handmade() as server, desk(tmp_path / "gone", server.url) as own:
            own.set(up=False)
            own.until(lambda: len(server.asked) == 1 and not own.errands.running)
            own.set(up=True)
            own.until(lambda: len(server.asked) == 2 and not own.errands.running)
        assert caplog.text.count("cannot be saved") == 1

    def test_no_proxy_of_the_environment_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The message goes where the setting says, and nowhere else."""
        with handmade() as proxy, handmade() as server, desk(tmp_path, server.url) as own:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            own.set(up=False)
            own.until(lambda: server.asked and not own.errands.running)
            assert proxy.asked == []
