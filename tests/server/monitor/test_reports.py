"""Client reports: the route, its limits, and the counts of the last hour."""

import itertools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from mop_config import Settings, create_app
from mop_config.net.faults import COUNTED
from mop_config.server.auth import Token, digest, line_of
from mop_config.server.monitor import reports
from mop_config.server.monitor.reports import (
    FAULTS,
    MAX_ADDRESSES,
    MAX_COUNT,
    MAX_REPORTS,
    MAX_SERIES,
    STEP,
    STEPS,
    ClientReports,
)
from mop_config.server.state.directory import StateDirectory
from mop_config.server.web.views import client_address

URL = "https://a.example/api/v1"
ROUTE = "/api/v1/config/reports"
ADDRESSES = map(str, itertools.count())


def report(**counts: int) -> dict[str, Any]:
    named = {fault.replace("_", "-"): count for fault, count in counts.items()}
    return {"endpoints": [{"kind": "api", "url": URL, "counts": named}]}


def make(tmp_path: Path, **settings: Any) -> FlaskClient:
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\na.example\nb.example\n")
    settings = {"reports": True, "source": str(file), "state_dir": str(tmp_path / "s"), **settings}
    return create_app(Settings(**settings), start=False).test_client()


def admit(worker: ClientReports, address: str, now: float) -> bool:
    """Count a report of no endpoint, and return whether its address may report."""
    return worker.add(Counter(), frozenset(), address, now)


def count(worker: ClientReports, sent: Counter[reports.Series], listed: reports.Listed) -> None:
    """Count a report of an address that has not reported yet."""
    assert worker.add(sent, listed, next(ADDRESSES), 60.0)


def reported(client: FlaskClient, **headers: str) -> Any:
    return client.get("/api/v1/config/status", headers=headers).get_json()["reports"]


def test_a_report_is_counted_and_shown(tmp_path: Path) -> None:
    """A report's counts are in status, metrics and page, for listed endpoints only."""
    client = make(tmp_path)
    assert reported(client) == []
    sent = report(ok=1200, read_timeout=300, refused=10)
    sent["endpoints"].append({"kind": "api", "url": "https://other.example", "counts": {"ok": 1}})
    sent["endpoints"].append({"kind": "socketio", "url": URL, "counts": {"ok": 1}})
    answer = client.post(ROUTE, json=sent)
    assert (answer.status_code, answer.data) == (204, b"")
    assert client.post(ROUTE, json=report(ok=4)).status_code == 204
    counts = {"ok": 1204, "read-timeout": 300, "refused": 10}
    assert reported(client) == [{"kind": "api", "url": URL, "counts": counts}]
    text = client.get("/metrics").text
    assert f'mop_config_client_reports{{fault="refused",kind="api",url="{URL}"}} 10.0' in text
    page = client.get("/?lang=en").text
    assert "seen by apps in the last hour: 1,204 ok, 310 failed (mostly: timed out)" in page
    assert "应用上报（最近 1 小时）：成功 1,204，失败 310" in client.get("/?lang=zh").text


def test_reports_are_off_by_default(tmp_path: Path) -> None:
    """By default the route is 404, and ``reports`` in the status is null."""
    client = make(tmp_path, reports=False)
    answer = client.post(ROUTE, json=report(ok=1))
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
    assert reported(client) is None
    assert Settings.from_environ({"ENDPOINT_REPORTS": "1"}).reports
    assert not Settings.from_environ({}).reports


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[" * 4000, 400),
        (b"\xff", 400),
        (b"{}", 400),
        (b'{"endpoints":[{}]}', 400),
        (json.dumps(report(ours=1)).encode(), 400),
        (json.dumps(report(unheard_of=1)).encode(), 400),
        (json.dumps(report(ok=0)).encode(), 400),
        (json.dumps(report(ok=-1)).encode(), 400),
        (json.dumps(report(ok=MAX_COUNT + 1)).encode(), 400),
        (json.dumps(report(ok=MAX_COUNT)).replace("10000", "true").encode(), 400),
        (json.dumps(report(ok=MAX_COUNT)).replace("10000", "1.5").encode(), 400),
        (json.dumps(report(ok=1)).replace('"api"', '"ftp"').encode(), 400),
        (json.dumps(report(ok=MAX_COUNT)).encode(), 204),
        (json.dumps(report(ok=1)).encode().ljust(4096), 204),
        (json.dumps(report(ok=1)).encode().ljust(4097), 413),
    ],
)
def test_a_bad_report_is_refused_whole(tmp_path: Path, body: bytes, status: int) -> None:
    """A bad report gets a problem document with the allowed values, and counts nothing."""
    client = make(tmp_path)
    answer = client.post(ROUTE, data=body, content_type="application/json")
    assert answer.status_code == status
    assert bool(reported(client)) == (status == 204)
    if status == 400:
        assert answer.get_json()["detail"]


def test_a_page_of_another_site_cannot_report(tmp_path: Path) -> None:
    """A browser sends JSON to another origin only after a preflight, which allows no POST."""
    client = make(tmp_path, cors_origins=("*",))
    answer = client.post(ROUTE, data=json.dumps(report(ok=1)), content_type="text/plain")
    assert answer.status_code == 415
    asked = {"Origin": "https://x.example", "Access-Control-Request-Method": "POST"}
    preflight = client.options(ROUTE, headers=asked)
    assert "POST" not in preflight.headers.get("Access-Control-Allow-Methods", "")


def test_one_count_never_exceeds_the_limit_of_a_report(tmp_path: Path) -> None:
    """A count is limited even if the report names an endpoint many times."""
    client = make(tmp_path)
    sent = {"endpoints": report(ok=MAX_COUNT)["endpoints"] * 5}
    assert client.post(ROUTE, json=sent).status_code == 204
    assert reported(client)[0]["counts"] == {"ok": MAX_COUNT}


def test_where_tokens_are_set_a_read_token_is_needed_and_suffices(tmp_path: Path) -> None:
    """With tokens, a report needs a read token as a Bearer token, not by Basic."""
    tokens = tmp_path / "tokens"
    tokens.write_text(line_of(Token("app", digest("an-apps-token-0123"), False)))
    client = make(tmp_path, tokens_file=str(tokens))
    bearer = {"Authorization": "Bearer an-apps-token-0123"}
    assert client.post(ROUTE, json=report(ok=1)).status_code == 401
    assert (
        client.post(ROUTE, json=report(ok=1), auth=("x", "an-apps-token-0123")).status_code == 401
    )
    assert client.post(ROUTE, json=report(ok=1), headers=bearer).status_code == 204
    assert client.post("/api/v1/config/reload", headers=bearer).status_code == 403
    assert reported(client, **bearer)[0]["counts"] == {"ok": 1}


def test_an_address_may_report_ten_times_a_minute(tmp_path: Path) -> None:
    """An address may report ten times a minute; behind a local proxy, it is the client's."""
    client = make(tmp_path)
    answers = [
        client.post(ROUTE, json=report(ok=1), headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.1"})
        for _ in range(MAX_REPORTS + 1)
    ]
    assert [answer.status_code for answer in answers] == [204] * MAX_REPORTS + [429]
    assert answers[-1].headers["Retry-After"] == "60"
    other = client.post(ROUTE, json=report(ok=1), headers={"X-Forwarded-For": "192.0.2.2"})
    assert other.status_code == 204
    assert reported(client)[0]["counts"] == {"ok": MAX_REPORTS + 1}


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "address"),
    [
        ("192.0.2.9", "", "127.0.0.1", "192.0.2.9"),
        ("192.0.2.9", "1.1.1.1", "127.0.0.1", "192.0.2.9"),
        ("127.0.0.1", "1.1.1.1", "127.0.0.1,::1", "1.1.1.1"),
        ("127.0.0.1", "6.6.6.6, 1.1.1.1", "127.0.0.1", "1.1.1.1"),
        ("127.0.0.1", "1.1.1.1, 10.0.0.1", "127.0.0.1, 10.0.0.1", "1.1.1.1"),
        ("", "1.1.1.1", "127.0.0.1", "1.1.1.1"),
        ("10.0.0.7", "2.2.2.2, 1.1.1.1", "*", "2.2.2.2"),
        ("127.0.0.1", " , ", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_address_is_the_last_one_that_a_trusted_proxy_saw(
    peer: str, forwarded: str, trusted: str, address: str
) -> None:
    """The last untrusted address counts, since the addresses before it may be forged."""
    assert client_address(peer, forwarded, trusted) == address


def test_the_memory_of_addresses_is_bounded() -> None:
    """The table has one size, and far more addresses than it has places may report once."""
    table = b""
    for number in range(2 * MAX_ADDRESSES):
        table = reports._counted(table, f"{number}", 0.0)
        assert len(table) == reports._MINUTE + MAX_ADDRESSES
    while table:
        before, table = table, reports._counted(table, "another", 1.0)
    assert reports._counted(before[:-1], "another", 1.0)
    assert reports._counted(before, "another", 61.0)
    assert reports._counted(before, "0", 1.0)


def test_all_workers_limit_an_address_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers that use one state folder share the reports of each address."""
    monkeypatch.setattr(reports, "_step", lambda: 0)  # the clock may pass a boundary meanwhile
    workers = [ClientReports(StateDirectory(tmp_path), "x") for _ in range(3)]
    for round_ in range(MAX_REPORTS):
        assert all(admit(workers[(n + round_) % 3], f"192.0.2.{n}", 60.0) for n in range(5))
    assert not any(admit(worker, "192.0.2.4", 119.0) for worker in workers)
    assert all(admit(worker, "192.0.2.5", 119.0) for worker in workers)
    assert all(admit(worker, "192.0.2.4", 120.0) for worker in workers)
    for record in tmp_path.glob("x.reports.[0-9]*"):
        record.write_bytes(b"")
    assert admit(workers[0], "192.0.2.4", 120.0)


def test_the_counts_of_a_step_are_bounded(tmp_path: Path) -> None:
    """Beyond the limit new counts are dropped, and known counts still rise."""
    counts = ClientReports(StateDirectory(tmp_path), "x")
    listed = frozenset(("api", f"https://{n}.example") for n in range(MAX_SERIES + 5))
    sent = Counter({(kind, url, "ok"): 1 for kind, url in sorted(listed)})
    count(counts, sent, listed)
    assert len(counts.totals(listed)) == MAX_SERIES
    count(counts, sent, listed)
    assert {each["counts"]["ok"] for each in counts.totals(listed)} == {2}
    assert len(counts.totals(listed)) == MAX_SERIES


def test_the_counts_of_all_workers_are_added_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts of the last hour of all workers, also of ended ones, are added."""
    now = [1_000_000.0 * STEP]
    monkeypatch.setattr(reports, "_step", lambda: int(now[0] // STEP))
    listed = frozenset({("api", URL)})
    first = ClientReports(StateDirectory(tmp_path), "x")
    second = ClientReports(StateDirectory(tmp_path), "x")
    sent = Counter({("api", URL, "ok"): 5, ("api", URL, "tls"): 2})
    count(first, sent, listed)
    del first
    now[0] += 10 * STEP
    count(second, sent, listed)
    assert second.totals(listed)[0]["counts"] == {"ok": 10, "tls": 4}
    reader = ClientReports(StateDirectory(tmp_path), "x")
    assert reader.totals(listed)[0]["counts"] == {"ok": 10, "tls": 4}
    assert reader.totals(frozenset()) == []
    now[0] += 2 * STEP
    assert reader.totals(listed)[0]["counts"] == {"ok": 5, "tls": 2}
    now[0] += STEPS * STEP
    assert reader.totals(listed) == second.totals(listed) == []


def test_workers_that_add_at_the_same_time_lose_no_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports that several workers get at the same time are all counted."""
    # A busy machine may keep a worker from the lock for longer than a client should wait.
    monkeypatch.setattr(reports, "LONG_PATIENCE", 60.0)
    listed = frozenset({("api", URL)})

    def add() -> None:
        worker = ClientReports(StateDirectory(tmp_path), "x")
        for _ in range(20):
            count(worker, Counter({("api", URL, "ok"): 1}), listed)

    with ThreadPoolExecutor(4) as pool:
        for added in [pool.submit(add) for _ in range(4)]:
            added.result()
    (total,) = ClientReports(StateDirectory(tmp_path), "x").totals(listed)
    assert total["counts"] == {"ok": 80}


def test_without_a_state_folder_nothing_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a usable state folder no report is counted, and one warning says so."""
    unusable = tmp_path / "file"
    unusable.touch()
    counts, listed = ClientReports(StateDirectory(unusable), "x"), frozenset({("api", URL)})
    for _ in range(3):
        assert admit(counts, "192.0.2.1", 60.0)
        count(counts, Counter({("api", URL, "ok"): 1}), listed)
    assert counts.totals(listed) == []
    assert caplog.text.count("the clients' reports cannot be saved") == 1


def test_an_old_file_is_replaced_and_a_torn_one_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record of another hour is not counted and is replaced, and a torn one is ignored."""
    step = [1_000_000]
    monkeypatch.setattr(reports, "_step", lambda: step[0])
    directory = StateDirectory(tmp_path)
    writer = ClientReports(directory, "x")
    listed = frozenset({("api", URL)})
    count(writer, Counter({("api", URL, "ok"): 5}), listed)
    (file,) = tmp_path.glob("x.reports.[0-9]*")
    good = file.read_text()
    reader = ClientReports(directory, "x")
    for text in ("", good[:-3], good.replace('"counts"', '"?"'), "[]"):
        file.write_text(text)
        assert reader.totals(listed) == []
    file.write_text(good)
    for number in (1_000_000 + STEPS, 1_000_000 - STEPS, 1_000_000 - 1):
        step[0] = number
        assert reader.totals(listed) == []
    step[0] = 1_000_000 + STEPS
    for number in range(3 * STEPS):
        count(writer, Counter({("api", URL, "ok"): 1}), listed)
        assert reader.totals(listed)[0]["counts"] == {"ok": min(number + 1, STEPS)}
        step[0] += 1
    assert len(list(tmp_path.glob("x.reports.[0-9]*"))) == STEPS


def test_the_words_are_those_that_speak_against_an_endpoint() -> None:
    """The server accepts exactly the results that clients count (not faults of the client)."""
    assert set(FAULTS) == {"ok", *COUNTED}
