"""Tests of the metrics: what is counted, and how it is exposed."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from mop_config import create_app, init_app
from mop_config.server.serving.store import Result, Trigger
from mop_config.server.settings import Settings
from mop_config.server.state.directory import WorkerRecord
from mop_config.server.status import metrics
from mop_config.server.status.metrics import host_gauges

from ...scrapes import METRICS, Scrape, check_with_promtool
from ...servers import ENDPOINTS
from .test_status import event, worker

HOSTS = "DomainList:\na.example\nb.example\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "endpoints.txt"
    path.write_text(HOSTS)
    return path


@pytest.fixture
def app(tmp_path: Path, file: Path) -> Flask:
    return create_app(Settings(source=str(file), state_dir=str(tmp_path / "state")), start=False)


def scrape(client: FlaskClient) -> Scrape:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return Scrape(answer.text)


class TestText:
    """The text of a scrape."""

    def test_prometheus_finds_nothing_to_object_to(self, app: Flask) -> None:
        """promtool accepts a scrape with requests and reloads."""
        client = app.test_client()
        client.get(ENDPOINTS)
        check_with_promtool(scrape(client).text)

    def test_each_metric_has_its_name_its_type_and_its_labels(self, app: Flask) -> None:
        """There are no other metrics; those of endpoints need health checks."""
        client = app.test_client()
        client.get("/health")
        families = scrape(client).families
        assert families.keys() == METRICS.keys()
        for name, family in families.items():
            labels = {label for s in family.samples for label in s.labels} - {"le"}
            assert family.type == METRICS[name][0]
            assert labels == (METRICS[name][1] if "url" not in METRICS[name][1] else set())
            assert family.documentation.endswith(".")

    def test_the_format_is_prometheus_own(self, app: Flask) -> None:
        """``Accept`` does not matter: a scraper that prefers OpenMetrics takes this format too."""
        for accept in ("*/*", "text/html", "application/openmetrics-text; version=1.0.0"):
            answer = app.test_client().get("/metrics", headers={"Accept": accept})
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-store"


class TestRequests:
    """``mop_config_requests_total``."""

    def test_a_request_counts_under_its_rule_and_status(self, app: Flask) -> None:
        """The path is no label, because a client could create any number of series."""
        client = app.test_client()
        etag = client.get(ENDPOINTS).headers["ETag"]
        client.head(ENDPOINTS)
        client.get(ENDPOINTS, headers={"If-None-Match": etag})
        client.get(f"{ENDPOINTS}?wait=nonsense")
        client.options(ENDPOINTS)
        client.get("/ready")
        client.get('/made/up"\n/path')
        client.post(ENDPOINTS)
        counted = {
            (labels["route"], labels["status"]): value
            for name, labels, value in scrape(client).samples
            if name == "mop_config_requests_total"
        }
        assert counted == {
            (ENDPOINTS, "200"): 3,
            (ENDPOINTS, "304"): 1,
            (ENDPOINTS, "400"): 1,
            ("/ready", "200"): 1,
            ("other", "404"): 1,
            ("other", "405"): 1,
        }

    def test_a_view_that_fails_counts_too(self, app: Flask) -> None:
        """The request counts as status 500."""

        def fail() -> str:
            raise RuntimeError

        app.view_functions["health"] = fail
        client = app.test_client()
        assert client.get("/health").status_code == 500
        counted = scrape(client).total("mop_config_requests_total", route="/health", status="500")
        assert counted == 1

    def test_requests_of_an_application_around_ours_are_its_own_affair(
        self, tmp_path: Path, file: Path
    ) -> None:
        """Only our routes are counted."""
        app = Flask("guest")
        app.add_url_rule("/own", view_func=lambda: "own")
        init_app(app, Settings(source=str(file), state_dir=str(tmp_path)), start=False)
        client = app.test_client()
        for path in ("/own", "/missing", ENDPOINTS):
            client.get(path)
        assert scrape(client).series("mop_config_requests_total", "route") == {ENDPOINTS: 1}

    def test_a_request_without_a_good_token(self, app: Flask) -> None:
        """Each refusal is counted once."""
        client = app.test_client()
        assert scrape(client).total("mop_config_auth_failures_total") == 0
        app.extensions["mop_config"].metrics.auth_failure()
        assert scrape(client).total("mop_config_auth_failures_total") == 1


class TestReloads:
    """The metrics of reloads and of the source."""

    def test_each_reload_counts_with_its_trigger_and_its_result(
        self, app: Flask, file: Path
    ) -> None:
        """Reloads before the first request count too; all other series begin with 0."""
        service, client = app.extensions["mop_config"], app.test_client()
        loader = service._reloader
        file.write_text("DomainList:\nnew.example\n")
        loader.reload(Trigger.WATCH)
        loader.reload(Trigger.SIGHUP)
        file.write_text("IPList\n")
        loader.reload(Trigger.POLL)
        told = scrape(client)
        assert told.total("mop_config_reloads_total") == 4
        for trigger, result in [
            ("start", "applied"),
            ("watch", "applied"),
            ("sighup", "unchanged"),
            ("poll", "rejected"),
        ]:
            name = "mop_config_reloads_total"
            assert told.total(name, trigger=trigger, result=result) == 1
        series = [labels for name, labels, _ in told.samples if name == "mop_config_reloads_total"]
        assert len(series) == len(Trigger) * len(Result)
        assert told.total("mop_config_reload_duration_seconds_count") == 4
        assert told.total("mop_config_reload_duration_seconds_sum") > 0

    def test_the_state_of_the_source(self, app: Flask, file: Path) -> None:
        """The gauges follow good and refused reloads; the time is that of the last good one."""
        service, client = app.extensions["mop_config"], app.test_client()
        loader = service._reloader
        before = scrape(client)
        assert before.total("mop_config_last_reload_successful") == 1
        name = "mop_config_last_reload_success_timestamp_seconds"
        good_at = before.total(name)
        assert good_at == pytest.approx(service.store.view.last_reload.at, abs=5)
        file.write_bytes(b"\0")
        loader.reload(Trigger.WATCH)
        bad = scrape(client)
        assert bad.total("mop_config_last_reload_successful") == 0
        assert bad.total(name) == good_at
        assert bad.series("mop_config_endpoints", "kind") == {"api": 2, "socketio": 2}
        assert bad.series("mop_config_problems", "severity") == {"error": 1, "warning": 0}
        file.write_text(HOSTS)
        loader.reload(Trigger.WATCH)
        again = scrape(client)
        assert again.total("mop_config_last_reload_successful") == 1
        assert again.total(name) > good_at

    def test_problems_are_counted_exactly(self, app: Flask, file: Path) -> None:
        """The counts are exact, even beyond the problems that are kept."""
        service = app.extensions["mop_config"]
        lines = ["DomainList:", "a.example", *["bad_host"] * 250, "ApiList:", *["a.example"] * 3]
        file.write_text("\n".join(lines))
        service._reloader.reload(Trigger.WATCH)
        told = scrape(app.test_client())
        view = service.store.view
        assert len(view.problems) < view.errors == 250
        assert told.series("mop_config_problems", "severity") == {
            "error": 250,
            "warning": view.warnings,
        }
        assert told.series("mop_config_endpoints", "kind") == {"api": 1, "socketio": 1}

    def test_a_process_that_never_saw_a_good_list(self, tmp_path: Path) -> None:
        """Without a good list there is no success, no time and no endpoint."""
        settings = Settings(source=str(tmp_path / "none"), state_dir=str(tmp_path))
        told = scrape(create_app(settings, start=False).test_client())
        assert told.total("mop_config_last_reload_successful") == 0
        assert told.total("mop_config_last_reload_success_timestamp_seconds") == 0
        assert told.series("mop_config_endpoints", "kind") == {"api": 0, "socketio": 0}


def told(workers: list[WorkerRecord], health: Any = None) -> dict[str, Any]:
    """Return the samples of each gauge."""
    return {
        gauge.name.removeprefix("mop_config_"): {
            tuple(sample.labels.values()): sample.value for sample in gauge.samples
        }
        for gauge in host_gauges(workers, health)
    }


class TestHost:
    """The gauges of a host with several workers."""

    def test_one_worker_that_failed_is_a_failure(self) -> None:
        """A worker that serves another list is a failure too."""
        good = worker(1)
        for other, expected in [
            (worker(2), 1),
            (worker(2, history=[event(2.0, "unchanged")]), 1),
            (worker(2, history=[event(2.0, "rejected"), event(1.0)]), 0),
            (worker(2, history=[event(2.0, "error")]), 0),
            (worker(2, history=[]), 0),
            (worker(2, etag="another"), 0),
        ]:
            for workers in ([good, other], [other, good]):
                assert told(workers)["last_reload_successful"] == {(): expected}

    def test_the_worst_worker_speaks_and_the_last_one_counts(self) -> None:
        """Waiters are added up; the time is that of the worker that is furthest behind."""
        workers = [
            worker(1, waiters=3, good_at=50.0),
            worker(2, "rejected", errors=700, warnings=2, waiters=4, good_at=20.0),
        ]
        assert told(workers)["waiters"] == {(): 7}
        assert told(workers)["problems"] == {("error",): 700, ("warning",): 2}
        assert told(workers)["last_reload_success_timestamp_seconds"] == {(): 20.0}

    def test_endpoints_are_told_as_far_as_they_are_known(self) -> None:
        """Without a worker that checks, there are no series of endpoints."""

        def endpoint(kind: str, up: bool | None, seconds: float | None) -> dict[str, Any]:
            ends = "2027-01-02T00:00:00.000Z" if up else None
            found = {"kind": kind, "url": "https://a", "up": up, "response_seconds": seconds}
            return {**found, "certificate_expires": ends}

        found = [endpoint("api", True, 0.5), endpoint("socketio", False, None)]
        health = {"alive": True, "endpoints": [*found, endpoint("other", None, None)]}
        gauges = told([worker(1)], health)
        assert gauges["endpoint_up"] == {("api", "https://a"): 1, ("socketio", "https://a"): 0}
        assert gauges["endpoint_response_seconds"] == {("api", "https://a"): 0.5}
        expiry = "endpoint_certificate_expiry_timestamp_seconds"
        assert gauges[expiry] == {("api", "https://a"): 1798848000.0}
        for health_or_none in ({**health, "alive": False}, None):
            gauges = told([worker(1)], health_or_none)
            assert gauges["endpoint_up"] == gauges["endpoint_response_seconds"] == {}
            assert gauges[expiry] == {}


class Child:
    """A process that counts in a folder each time it reads a word from standard input."""

    CODE = """
import os, sys
from mop_config.server.status.metrics import Metrics
metrics = Metrics()
metrics.start(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    if line == "tell\\n":
        text = metrics.expose([]).decode()
        print(next(l.split()[-1] for l in text.splitlines() if 'route="/x"' in l), flush=True)
    else:
        metrics.request("/x", "200 OK")
        print("counted", flush=True)
"""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", self.CODE, str(folder)],
            env={**os.environ, metrics.VARIABLE: str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self._read()

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.communicate(timeout=10)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder as the master does."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return metrics.make_folder(os.geteuid(), os.getegid())


class TestFolder:
    """The folder in which several processes count."""

    def test_a_successor_goes_on_with_the_counts_of_the_dead(self, folder: Path) -> None:
        """After a kill no count is lost or doubled, and no file is left behind."""
        other = Child(folder)
        other.say("count")
        for number, end in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL], 1):
            child = Child(folder)
            child.say("count")
            assert float(other.say("tell")) == float(child.say("tell")) == number + 1
            child.end(end)
            assert float(other.say("tell")) == number + 1
        other.end(signal.SIGKILL)
        files = sorted(path.name for path in folder.glob("*.db"))
        assert files == [f"{kind}_place{n}.db" for kind in ("counter", "histogram") for n in (0, 1)]
        assert {path.stat().st_size for path in folder.glob("*.db")} == {metrics.FILE_SIZE}

    def test_the_folder_is_for_its_user_alone(self, folder: Path) -> None:
        """Other users can neither read nor write in the folder."""
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_the_workers_user_can_write_to_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The folder belongs to the workers' user if the master runs as root."""
        if os.geteuid() != 0:
            pytest.skip("only root gives a folder away")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        made = metrics.make_folder(65534, 65534)
        assert (made.stat().st_uid, made.stat().st_gid) == (65534, 65534)


ALONE = """
import sys
from mop_config import create_app
from mop_config.server.settings import Settings
app = create_app(Settings(source=sys.argv[1], state_dir=sys.argv[2]), start=False)
app.extensions["mop_config"].metrics.start(sys.argv[3] or None)
client = app.test_client()
client.get("/health")
sys.stdout.write(client.get("/metrics").text)
"""


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


@pytest.mark.parametrize("given", ["", "folder"], ids=["unknown", "no-room"])
def test_a_folder_that_cannot_be_used(tmp_path: Path, file: Path, given: str) -> None:
    """Without a usable folder the process counts alone, logs a warning, and serves."""
    folder = tmp_path / "folder"
    if given:
        folder.mkdir()
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            ALONE,
            str(file),
            str(tmp_path / "state"),
            str(folder) * bool(given),
        ],
        env={**os.environ, metrics.VARIABLE: str(folder)},
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=_limit_files if given else None,
    )
    assert Scrape(result.stdout).total("mop_config_requests_total", route="/health") == 1
    assert result.stderr.count("metrics are counted for this process alone") == 1
    assert "Traceback" not in result.stderr
