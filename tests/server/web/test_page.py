"""Tests of the dashboard's page, by Flask's test client."""

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient

from mop_config import Endpoint, EndpointConfig, create_app, init_app
from mop_config.model.endpoint import dumps
from mop_config.server.parsing.problems import Code, Problem, ProblemRecord, Severity
from mop_config.server.serving.store import Result, SourceState, Trigger
from mop_config.server.settings import Settings
from mop_config.server.status.document import verdict
from mop_config.server.status.translations import LANGUAGES, Texts, load
from mop_config.server.web.dashboard import PARAMETERS, _templates
from mop_config.server.web.dashboard.viewmodel import (
    MAX_ROWS,
    describe,
    listing,
    quote,
)

from ...conftest import SAMPLE


def body(hosts: int, name: str | None = None) -> bytes:
    urls = [f"https://host{number}.example.com" for number in range(hosts)]
    return dumps(
        EndpointConfig(
            tuple(Endpoint(f"{url}/v1", server_name=name) for url in urls),
            tuple(Endpoint(url, server_name=name) for url in urls),
        )
    )


def status(**changes: Any) -> Any:
    reload = {
        "at": "2026-01-02T03:04:05.678Z",
        "trigger": "start",
        "result": "applied",
        "error": None,
        "duration_seconds": 0.001,
    }
    severities = [problem["severity"] for problem in changes.get("problems", ())]
    return {
        "source": "endpoints.txt",
        "state": "fresh",
        "etag": "e" * 32,
        "loaded_at": reload["at"],
        "counts": {"api": 0, "socketio": 0},
        "problems": [],
        "problem_counts": {word: severities.count(word) for word in ("error", "warning")},
        "last_reload": reload,
        "history": [{**reload, "etag": "e" * 32}],
        "watcher": {"mode": "inotify", "alive": True},
        "workers": [{"pid": 1, "etag": "e" * 32, "last_reload": reload}],
        "health": None,
        **changes,
    }


def kinds_down(document: Any) -> list[str]:
    """Return the kinds that the verdict on a status document calls down."""
    return [each.values["kind"] for each in verdict(document) if each.key == "verdict.kind_down"]


def described(document: Any, hosts: int = 0) -> dict[str, Any]:
    """Return the values of the page's template for a status document."""
    return describe(document, body(hosts), {}, {}, 0.0)


def make(tmp_path: Path, **settings: Any) -> FlaskClient:
    settings.setdefault("source", str(SAMPLE))
    app = create_app(Settings(state_dir=str(tmp_path / "state"), **settings), start=False)
    return app.test_client()


def test_planned_changes_are_in_the_status_and_on_the_page(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\na.com\nold.com until=2999-01-01\nnew.com from=2999-01-02\n")
    client = make(tmp_path, source=str(file))
    planned: Any = client.get("/api/v1/config/status").json["planned"]  # type: ignore[index]
    assert [(each["at"], each["change"], each["kind"], each["url"]) for each in planned] == [
        ("2999-01-01T00:00:00.000Z", "removed", "api", "https://old.com/api/v1"),
        ("2999-01-01T00:00:00.000Z", "removed", "socketio", "https://old.com"),
        ("2999-01-02T00:00:00.000Z", "added", "api", "https://new.com/api/v1"),
        ("2999-01-02T00:00:00.000Z", "added", "socketio", "https://new.com"),
    ]
    for language, title in (("en", "Planned changes"), ("zh", "计划变更")):
        page = client.get(f"/?lang={language}").text
        section = page[page.index('id="planned"') : page.index('id="endpoints"')]
        assert title in section
        assert section.count("2999-01-01T00:00:00.000Z") >= 2
        assert section.index("old.com") < section.index("new.com")
    file.write_text("DomainList:\na.com\n")
    assert 'id="planned"' not in make(tmp_path, source=str(file)).get("/").text


def test_a_large_list_is_not_shown_whole() -> None:
    """The page shows the first hundred endpoints of each kind, and their total number."""
    shown = listing(body(1000), "", None)
    assert len(shown.rows) == 2 * MAX_ROWS
    assert (shown.matching, shown.all) == (2000, 2000)
    assert shown.rows[0].endpoint.url == "https://host0.example.com/v1"
    assert shown.rows[MAX_ROWS].endpoint.url == "https://host0.example.com"
    assert [row.kind for row in shown.rows] == ["api"] * MAX_ROWS + ["socketio"] * MAX_ROWS


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [("host999", 2), ("HOST999", 2), ("/v1", 1000), ("priority", 0), ('"', 0), ("é", 0)],
)
def test_a_filter_looks_at_every_url(wanted: str, matching: int) -> None:
    """The filter searches all URLs, in any case, and nothing else."""
    shown = listing(body(1000), wanted, None)
    assert (shown.matching, shown.all) == (matching, 2000)
    assert len(shown.rows) == min(matching, MAX_ROWS)


def checked(states: dict[str, tuple[str, float | None]]) -> Any:
    """Return the health of some API endpoints: a state, and the duration of the last check."""
    endpoints = [
        {"kind": "api", "url": f"https://{host}.example.com/v1", "state": state, "up": True}
        | {
            "response_seconds": seconds,
            "detail": "",
            "certificate_expires": None,
        }
        for host, (state, seconds) in states.items()
    ]
    return {"interval_seconds": 5.0, "alive": True, "endpoints": endpoints}


def shown_hosts(hosts: int, health: Any, **choice: str) -> list[str]:
    found = listing(body(hosts), choice.pop("wanted", ""), health, **choice)
    return [row.endpoint.url.removeprefix("https://").partition(".")[0] for row in found.rows]


def test_only_what_is_not_healthy_is_shown() -> None:
    """Only failing endpoints are shown, of the whole list."""
    health = checked(
        {
            "host0": ("healthy", 0.1),
            "host1": ("suspect", None),
            "host2": ("unknown", None),
            "host150": ("unhealthy", None),
            "host151": ("recovering", 0.1),
        }
    )
    assert shown_hosts(200, health, only="unhealthy") == ["host1", "host150", "host151"]
    found = listing(body(200), "host15", health, only="unhealthy", order="health")
    assert (found.matching, found.all) == (2, 400)
    assert listing(body(200), "", None, only="unhealthy").rows == []
    assert len(listing(body(200), "", health, only="nonsense").rows) == 2 * MAX_ROWS


def test_a_long_list_is_sorted_whole() -> None:
    """The whole list is sorted; the order of the list decides between equal rows."""
    health = checked(
        {
            "host3": ("healthy", 0.5),
            "host7": ("healthy", 0.9),
            "host400": ("unhealthy", None),
            "host499": ("suspect", 0.1),
        }
    )
    assert shown_hosts(500, health, order="health")[:5] == [
        *("host400", "host499", "host3", "host7", "host0")
    ]
    assert shown_hosts(500, health, order="latency")[:4] == ["host7", "host3", "host499", "host0"]
    by_url = shown_hosts(500, health, order="url")
    assert by_url[:4] == ["host0", "host0", "host1", "host1"]
    assert by_url[4:6] == ["host10", "host10"]
    assert len(by_url) == 2 * MAX_ROWS
    in_order = shown_hosts(500, health, order="nonsense")
    assert in_order == shown_hosts(500, health)
    assert listing(body(500), "", health, order="url").matching == 1000
    urls = [f"https://{name}.example.com" for name in "abc"]
    ranked = tuple(Endpoint(url, priority) for url, priority in zip(urls, (5, 0, 5), strict=True))
    rows = listing(dumps(EndpointConfig(ranked, ())), "", None, order="priority").rows
    assert [row.endpoint.url for row in rows] == [urls[1], urls[0], urls[2]]


def test_orders_by_health_are_offered_where_there_is_health(tmp_path: Path) -> None:
    """The order that was chosen stays selected."""
    page = make(tmp_path).get("/?sort=url&only=unhealthy").text
    assert re.findall(r'<option value="(\w*)"(?: selected)?>', page.partition('id="sort"')[2])[
        :3
    ] == [*("", "priority", "url")]
    assert '<option value="url" selected>' in page
    assert 'id="only"' not in page
    probing = make(tmp_path, probe_interval=60.0).get("/?sort=latency&only=unhealthy").text
    assert '<option value="latency" selected>' in probing
    assert '<option value="unhealthy" selected>' in probing


def test_what_changed_is_said_beside_its_url(tmp_path: Path) -> None:
    """The changed attributes are shown in the spelling of the file."""
    file = tmp_path / "endpoints.txt"
    file.write_text("IPList:\n192.0.2.1\n192.0.2.2 server_name=a.example\n")
    app = create_app(Settings(source=str(file), state_dir=str(tmp_path / "state")), start=False)
    loader = app.extensions["mop_config"]
    file.write_text("IPList:\n192.0.2.1 priority=9\n192.0.2.2 priority=3 server_name=b.example\n")
    loader.load()
    page = app.test_client().get("/").text
    assert 'https://192.0.2.1/api/v1</bdi> <span class="how">priority=0 → 9</span>' in page
    assert "priority=1 → 3, server_name=a.example → b.example" in page


def test_the_history_says_which_command_brings_a_list_back(tmp_path: Path) -> None:
    """The page names the rollback command of each earlier list."""
    file = tmp_path / "endpoints.txt"
    settings = Settings(source=str(file), state_dir=str(tmp_path / "state"))
    file.write_text("DomainList:\na.example\nb.example\n")
    app = create_app(settings, start=False)
    service = app.extensions["mop_config"]
    first = service.status()["etag"]
    assert "mop-config rollback" not in app.test_client().get("/").text
    file.write_text("DomainList:\na.example\nc.example\n")
    service.load()
    page = app.test_client().get("/?lang=en").text
    commands = re.findall(r"<code>mop-config rollback (\w+)</code>", page)
    assert commands == [first[:12]]
    assert "2 added, 2 removed, 0 changed" in page
    environ = {"ENDPOINT_STATE_DIR": str(tmp_path / "state"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "mop_config", "rollback", *commands, str(file), "--yes"]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert file.read_text() == "DomainList:\na.example\nb.example\n", result.stderr


def test_a_list_of_a_window_has_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that a window has brought is no release: the page says that a window has ended."""
    file = tmp_path / "endpoints.txt"
    settings = Settings(source=str(file), state_dir=str(tmp_path / "state"))
    windows = "b.example until=2127-01-02\nc.example until=2127-01-03\n"
    file.write_text(f"DomainList:\na.example\n{windows}")
    app = create_app(settings, start=False)
    service = app.extensions["mop_config"]
    first = service.status()["etag"]
    for day in (2, 3):
        now = datetime(2127, 1, day, tzinfo=UTC).timestamp()
        monkeypatch.setattr(time, "time", lambda now=now: now)
        service._reloader.pass_boundary()
    page = app.test_client().get("/?lang=en").text
    assert re.findall(r"<code>mop-config rollback (\w+)</code>", page) == [first[:12]]
    assert page.count("A window (from=, until=) has begun or ended.") == 2


def test_a_refusal_is_explained_in_the_readers_language(tmp_path: Path) -> None:
    """The explanation is shown beside the English message."""
    client = make(tmp_path, source=str(tmp_path / "nothing"))
    reasons = {
        language: re.findall(r'<p class="reason">(.*?)</p>', client.get(f"/?lang={language}").text)
        for language in LANGUAGES
    }
    words = f"{tmp_path}/nothing is missing"
    # Of the state, and of the event in the history.
    assert reasons["en"] == [f'<bdi lang="en">{words}</bdi>'] * 2
    assert reasons["zh"] == [f'文件不存在 <bdi lang="en" class="original">{words}</bdi>'] * 2


def test_health_stands_before_the_etag(tmp_path: Path) -> None:
    """The health is shown before the ETag."""
    page = make(tmp_path).get("/").text
    terms = re.findall(r"<dt>(.*?)</dt>", page)
    assert terms[0] == "Health"
    assert terms[-1] == "ETag"


def test_every_part_of_the_page_is_one_step_away(tmp_path: Path) -> None:
    """The page has a link to each of its parts."""
    page = make(tmp_path).get("/").text
    jumps = re.findall(r'href="#([\w-]+)"', page.partition('<nav class="jump"')[2])
    assert jumps == ["problems", "endpoints", "history", "qr-code", "workers"]
    for target in jumps:
        assert len(re.findall(rf'<section [^>]*id="{target}" tabindex="-1"', page)) == 1


def test_an_empty_list_has_no_rows() -> None:
    """The empty list has no rows."""
    assert listing(body(0), "", None) == ([], 0, 0)


def test_a_server_name_is_shown() -> None:
    """The server name is shown if the endpoint has one."""
    row = listing(body(1, "api.example.com"), "", None).rows[0]
    assert row.endpoint.server_name == "api.example.com"


def test_rows_carry_the_health_of_their_endpoint() -> None:
    """Rows are matched by kind and URL; without a check a row has no state."""
    check = {
        "kind": "api",
        "url": "https://host0.example.com/v1",
        "state": "suspect",
        "up": True,
        "response_seconds": 0.0123,
        "checked_at": None,
        "detail": "timed out\u202e",
        "certificate_expires": None,
    }
    health: Any = {"interval_seconds": 5.0, "alive": True, "endpoints": [check]}
    probed, other = listing(body(1), "", health).rows
    assert (probed.check, other.check) == (check, None)
    page = described(status(health=health), 1)
    template = _templates().get_template("endpoints.html")
    query = dict.fromkeys(PARAMETERS, "")
    text = template.render(page=page, status=page["status"], query=query, t=Texts("en"))
    rows = text.split('<tr role="row"')[2:]
    assert re.findall(r'class="tag (\w+)"', "".join(rows)) == ["suspect", "unprobed"]
    assert ("timed out\\u202e" in rows[0], "12 ms" in rows[0]) == (True, True)
    assert ("timed out" in rows[1], " ms" in rows[1]) == (False, False)


def problem_at(column: int, text: str) -> ProblemRecord:
    return Problem(3, column, Severity.ERROR, Code.BAD_HOST, "bad", text).as_dict()


def test_the_text_of_a_problem_stands_at_its_column() -> None:
    """The caret is at the column of the problem; a large indent is cut."""
    near = quote(problem_at(5, "b_c"))
    far = quote(problem_at(500, "x" * 200))
    assert near == ("    ", "b_c")
    assert far == ("... ", "x" * 200)
    assert quote(problem_at(1, "")) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("例え.jp é", "例え.jp é"),
        ("\u202eabc", r"\u202eabc"),
        ("a\u2066b\u200fc", r"a\u2066b\u200fc"),
        ("\x1b[31m\t\u2028", r"\x1b[31m\t\u2028"),
    ],
)
def test_characters_that_deceive_are_written_out(text: str, shown: str) -> None:
    """Control characters, direction marks and line separators are escaped."""
    assert quote(problem_at(1, text)) == ("", shown)


def test_a_state_lasts_since_the_first_reload_that_ended_so() -> None:
    """The time is that of the first reload in the newest run of refusals or successes."""
    results = ["error", "rejected", "applied", "rejected"]
    history = [
        {"at": f"t{4 - i}", "result": result, "error": f"e{4 - i}" if "e" in result else None}
        for i, result in enumerate(results)
    ]
    shown = described(status(state="rejected", history=history))
    assert (shown["since"], shown["reason"]["error"]) == ("t3", "e4")
    fresh = described(status(history=history[2:]))
    assert (fresh["since"], fresh["reason"]) == ("t2", None)
    assert described(status(history=[], last_reload=None))["since"] is None


def test_workers_that_differ_are_named() -> None:
    """Workers whose ETag differs from the most common one are named."""
    workers = [{"pid": pid, "etag": etag, "last_reload": None} for pid, etag in enumerate("aab")]
    shown = described(status(workers=workers))
    assert (shown["common_etag"], shown["differing"]) == ("a", [2])


@pytest.mark.parametrize(
    ("ups", "down"),
    [([False, False], ["api"]), ([False, None], []), ([True, False], []), ([None], []), ([], [])],
)
def test_a_kind_is_down_when_all_of_it_is_known_to_be(
    ups: list[bool | None], down: list[str]
) -> None:
    """A kind is down if all of its endpoints are checked and down."""
    endpoints: list[dict[str, Any]] = [
        {"kind": "api", "url": f"https://host{i}.example.com/v1", "up": up}
        | {
            "state": "unknown",
            "response_seconds": None,
            "detail": "",
            "certificate_expires": None,
        }
        for i, up in enumerate(ups)
    ]
    health: Any = {"interval_seconds": 5.0, "alive": True, "endpoints": endpoints}
    counts: Any = {"api": len(ups), "socketio": 0}
    document = status(health=health, counts=counts)
    shown = described(document, 3)
    assert (shown["up"], kinds_down(document)) == (ups.count(True), down)
    counts = {"api": len(ups) + 1, "socketio": 0}  # one that is not checked
    assert kinds_down(status(health=health, counts=counts)) == []


def test_errors_come_before_warnings() -> None:
    """Within a severity, the order is that of the file."""
    problems = [
        {"severity": severity, "code": "x", "line": line, "column": 1, "text": ""}
        for line, severity in enumerate(["warning", "error", "warning", "error"])
    ]
    shown = described(status(problems=problems))
    assert [problem["line"] for problem, _ in shown["problems"]] == [1, 3, 0, 2]
    assert shown["status"]["problem_counts"] == {"error": 2, "warning": 2}


def test_every_text_is_there_in_both_languages() -> None:
    """Both files have the same keys, and a text has the same values in both languages."""
    english, chinese = load("en"), load("zh")
    problems = {key for key in chinese if key.startswith("problem.")}
    assert english.keys() == chinese.keys() - problems
    for key in english:
        fields = [
            {name for _, name, _, _ in Formatter().parse(text) if name}
            for text in (english[key], chinese[key])
        ]
        assert english[key], key
        assert chinese[key], key
        # "1 error" may be said without its number.
        assert fields[0] | {"n"} == fields[1] | {"n"}, key
    for key in english:
        stem, _, form = key.rpartition(".")
        if form in {"one", "other"}:
            assert {f"{stem}.one", f"{stem}.other"} <= english.keys(), key
            assert stem not in english
    assert list(LANGUAGES) == ["en", "zh"]
    assert problems >= {f"problem.{code}" for code in Code}
    assert all(chinese[key] for key in problems)


def text_keys() -> set[str]:
    """Return the keys of all texts, in both languages."""
    return {key.removesuffix(".one").removesuffix(".other") for key in load("en")}


@pytest.mark.parametrize("words", [SourceState, Trigger, Result])
def test_every_word_of_the_status_has_a_text(words: Any) -> None:
    """States, triggers and results have a text in both languages."""
    for word in words:
        name = words.__name__.lower().removeprefix("source")
        assert f"{name}.{word}" in text_keys()


def test_every_text_is_used() -> None:
    """Each text is used by a template, or is a word of the status document."""
    folder = Path(__file__).parents[3] / "mop_config" / "server" / "web" / "dashboard" / "templates"
    templates = "".join(file.read_text() for file in folder.iterdir())
    groups = (
        "state.",
        "trigger.",
        "result.",
        "health.",
        "severity.",
        "kind.",
        "watcher.",
        "fault.",
    )
    for key in text_keys():
        if not key.startswith(
            (*groups, "change.", "qr.format.", "only.", "sort.", "verdict.", "workers.differ")
        ):
            assert f't("{key}"' in templates, key
    for used in re.findall(r'\bt\("([^"]+)"[,)]', templates):
        assert used in text_keys(), used


def probed(**ups: list[bool | None]) -> dict[str, Any]:
    """Return the health of a number of endpoints of each kind."""
    endpoints: list[dict[str, Any]] = [
        {"kind": kind, "url": f"https://{kind}{i}.example.com", "up": up}
        | {
            "state": "unknown",
            "response_seconds": None,
            "detail": "",
            "certificate_expires": None,
        }
        for kind, known in ups.items()
        for i, up in enumerate(known)
    ]
    return {"interval_seconds": 5.0, "alive": True, "endpoints": endpoints}


def problem(code: str, text: str = "x", severity: str = "error") -> dict[str, Any]:
    place = {"line": 1, "column": 1, "message": "m", "text": text}
    return {"severity": severity, "code": code, **place}


BAD_HOST, TOKEN_LINE = problem("bad-host"), problem("token-line", "", "warning")
DEAD_WATCHER = {"mode": "inotify", "alive": False}
OTHERS = [{"pid": pid, "etag": etag, "last_reload": None} for pid, etag in enumerate("aab")]


@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({}, "good", ["Fresh"]),
        ({"problems": [problem("duplicate", severity="warning")]}, "good", ["Fresh"]),
        ({"state": "stale"}, "warn", ["Stale"]),
        ({"state": "rejected", "problems": [problem("missing", "")]}, "bad", ["Rejected"]),
        ({"state": "empty", "problems": [problem("missing", "")]}, "bad", ["Empty"]),
        ({"problems": [BAD_HOST]}, "warn", ["Served without 1 faulty entry"]),
        (
            {"problems": [BAD_HOST] * 100, "problem_counts": {"error": 1500, "warning": 0}},
            "warn",
            ["Served without 1,500 faulty entries"],
        ),
        ({"counts": {"api": 0, "socketio": 0}}, "bad", ["The list is empty"]),
        ({"problems": [TOKEN_LINE]}, "warn", ["1 bad line in the token file"]),
        (
            {"problems": [TOKEN_LINE, TOKEN_LINE, BAD_HOST]},
            "warn",
            ["Served without 1 faulty entry", "2 bad lines in the token file"],
        ),
        (
            {"problems": [problem("detached", ""), BAD_HOST]},
            "warn",
            ["Served without 1 faulty entry"],
        ),
        ({"health": probed(api=[True, None], socketio=[True, True])}, "good", ["Fresh"]),
        (
            {"health": probed(api=[False, False], socketio=[True, None])},
            "bad",
            ["No API endpoint is up"],
        ),
        (
            {"health": probed(api=[False, False], socketio=[True, False])},
            "bad",
            ["No API endpoint is up", "1 of 2 Socket.io endpoints is down"],
        ),
        (
            {"health": probed(api=[False, False], socketio=[False, False])},
            "bad",
            ["No API endpoint is up", "No Socket.io endpoint is up"],
        ),
        (
            {"health": probed(api=[False, True], socketio=[False, True]), "problems": [BAD_HOST]},
            "warn",
            [
                "1 of 2 API endpoints is down",
                "1 of 2 Socket.io endpoints is down",
                "Served without 1 faulty entry",
            ],
        ),
        (
            {"health": {**probed(api=[False, False]), "alive": False}},
            "warn",
            ["Health checks have stopped"],
        ),
        ({"health": {**probed(), "alive": False}}, "warn", ["No health check has finished yet"]),
        (
            {"health": probed(api=[False, False], socketio=[True]), "state": "stale"},
            "bad",
            ["No API endpoint is up", "Stale"],
        ),
        ({"workers": OTHERS}, "warn", ["1 worker serves another list: 2"]),
        (
            {"watcher": DEAD_WATCHER},
            "warn",
            ["Following the source has stopped: file events (inotify)"],
        ),
    ],
)
def test_the_headline_is_the_worst_that_is_known(
    tmp_path: Path, changes: dict[str, Any], level: str, told: list[str]
) -> None:
    """The headline is the worst finding of the whole status."""
    shown = described(status(**{"counts": {"api": 2, "socketio": 2}, **changes}), 2)
    findings = [shown["headline"], *shown["findings"]]
    texts = Texts("en")
    assert shown["headline"].level == level
    assert [f.say(texts) for f in findings if f.say(texts) != "Fresh" or f is findings[0]] == told
    for finding in findings:
        assert "{" not in finding.say(Texts("zh"))


def test_the_page_of_a_faulty_file_is_not_green(tmp_path: Path) -> None:
    """Headline, colour and title show the missing entries, in the reader's language."""
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\na.com\nb.com\n" + "bad_host\n" * 6)
    client = make(tmp_path, source=str(file))
    for language, words in (
        ("en", "Served without 6 faulty entries"),
        ("zh", "已略去 6 个有误的条目"),
    ):
        page = client.get(f"/?lang={language}").text
        assert f"<title>{words} ·" in page
        assert re.search(rf'<h2 id="state-title">.*{words}', page)
        assert re.search(r'<section class="state fresh warn"', page)
        assert Texts(language)("state.fresh.means") not in page


def test_singular_and_plural() -> None:
    """Texts have a singular and a plural, and large numbers are grouped."""
    english, chinese = Texts("en"), Texts("zh")
    assert english("problems.errors", 1) == "1 error"
    assert english("problems.errors", 12345) == "12,345 errors"
    assert chinese("problems.errors", 1) == "1 个错误"
    assert english.word("result", "unheard-of") == "unheard-of"


@pytest.mark.parametrize(
    ("query", "accept", "language"),
    [
        ("", "", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.5", "zh"),
        ("", "fr, en;q=0.1", "en"),
        ("", "fr", "en"),
        ("?lang=zh", "en", "zh"),
        ("?lang=en", "zh", "en"),
        ("?lang=klingon", "zh-TW", "zh"),
        ("?lang=", "zh", "zh"),
        ("?lang=../../etc/passwd", "", "en"),
        ("?lang=zh&lang=en", "", "zh"),
    ],
)
def test_the_language_is_the_readers(
    tmp_path: Path, query: str, accept: str, language: str
) -> None:
    """The language is that of the query, else of Accept-Language, else English."""
    response = make(tmp_path).get(f"/{query}", headers={"Accept-Language": accept})
    assert response.status_code == 200
    assert response.headers["Content-Language"] == language
    assert f'<html lang="{Texts(language).tag}">' in response.text
    assert "Accept-Language" in response.headers["Vary"]


def test_the_page_is_sent_once_and_then_only_when_it_differs(tmp_path: Path) -> None:
    """A poll gets 304 until something changes."""
    client = make(tmp_path)
    first = client.get("/")
    same = client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    assert (
        client.get("/?q=ym1", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200
    )
    assert first.headers["Cache-Control"] == "no-store"
    policy = first.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_nothing_of_the_page_needs_inline_code_or_style(tmp_path: Path) -> None:
    """The page has no inline script or style, and no URL of another host."""
    text = make(tmp_path).get("/?q=ym&format=list&room_id=r&lang=zh").text
    assert re.findall(r"<script[^>]*>(?!</script>)", text) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", text) == []
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', text)
    assert addresses
    assert not [a for a in addresses if re.match("//|[a-z+.-]+:", a, re.IGNORECASE)]


@pytest.mark.parametrize(
    "query",
    [
        "q=" + "x" * 100_000,
        "q=%00%ff%22%3E%3Cscript%3E",
        "format=nope",
        "limit=-1",
        "limit=9e9",
        "room_id=" + "r" * 200,
        "q=%",
        "&&==",
    ],
)
def test_whatever_the_address_says_the_page_is_shown(tmp_path: Path, query: str) -> None:
    """Invalid parameters are reported or ignored."""
    response = make(tmp_path).get(f"/?{query}")
    assert response.status_code == 200
    assert "<script>" not in response.text
    assert len(response.text) < 100_000
    if query.startswith(("format", "limit", "room")):
        assert f"No QR code: {query.split('=')[0]}" in response.text


def test_a_text_that_is_none_is_shown_with_its_place(tmp_path: Path) -> None:
    """A problem without a text is shown with its line and column."""
    file = tmp_path / "endpoints.txt"
    file.write_bytes(b"DomainList:\na.com\xff")
    page = make(tmp_path, source=str(file)).get("/?lang=en").text
    assert re.search(r'class="place">[^<]*\b2\b[^<]*\b6\b', page)


def test_no_code_is_offered_where_there_is_no_endpoint(tmp_path: Path) -> None:
    """In the state ``empty`` there is no QR code."""
    text = make(tmp_path, source=str(tmp_path / "nothing")).get("/").text
    assert "There is no endpoint to put into a code yet." in text
    assert "<img" not in text


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("dashboard.css", "text/css; charset=utf-8"),
        ("dashboard.js", "text/javascript; charset=utf-8"),
        ("patch.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml; charset=utf-8"),
    ],
)
def test_files_have_their_type_and_are_cached(tmp_path: Path, name: str, content_type: str) -> None:
    """Static files have their content type, and are revalidated on each use."""
    client = make(tmp_path)
    response = client.get(f"/static/{name}", buffered=True)
    assert response.headers["Content-Type"] == content_type
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-cache, max-age=0"
    etag = response.headers["ETag"]
    again = client.get(f"/static/{name}", headers={"If-None-Match": etag}, buffered=True)
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize(
    "name", ["nope.js", "..%2fapp.py", "%2e%2e/page.py", ".js", "dashboard.js%00.css", ""]
)
def test_nothing_else_is_served_as_a_file(tmp_path: Path, name: str) -> None:
    """Other names, and paths outside the folder, are 404."""
    assert make(tmp_path).get(f"/static/{name}").status_code == 404


def test_an_application_of_ones_own_keeps_its_first_page(tmp_path: Path) -> None:
    """The dashboard is at /mop-config/ there, and does not touch / and /static.

    Its own files are revalidated, however long the application's files may be cached.
    """
    app = Flask("other", static_folder=str(tmp_path), static_url_path="/static")
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 3600
    (tmp_path / "dashboard.css").write_text("theirs")
    init_app(app, Settings(source=str(SAMPLE), state_dir=str(tmp_path)), start=False)

    @app.get("/")
    def own() -> str:
        return "mine"

    client = app.test_client()
    assert client.get("/").text == "mine"
    theirs = client.get("/static/dashboard.css")
    assert theirs.text == "theirs"
    assert theirs.headers["Cache-Control"] == "public, max-age=3600"
    theirs.close()
    ours = client.get("/mop-config/static/dashboard.css", buffered=True)
    assert ours.headers["Cache-Control"] == "no-cache, max-age=0"
    page = client.get("/mop-config/")
    found = re.findall(r'(?:src|href)="([^"?#:]+)"', page.text)
    addresses = {urljoin("/mop-config/", address) for address in found}
    assert "/mop-config/static/dashboard.css" in addresses
    for address in addresses:
        assert client.get(address, buffered=True).status_code == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_page_works_below_a_prefix(tmp_path: Path) -> None:
    """All URLs are relative, so that the page works behind a prefix."""
    for environ in ({"SCRIPT_NAME": "/ops"}, {}):
        text = make(tmp_path).get("/", environ_overrides=environ).text
        found = re.findall(r'(?:src|href|action)="([^"#:]*)"', text)
        assert len(found) > 8
        addresses = [urljoin("https://proxy.example/ops/", address) for address in found]
        assert all(a.startswith("https://proxy.example/ops/") for a in addresses)
        assert "https://proxy.example/ops/api/v1/config/status" in addresses
        assert "https://proxy.example/ops/static/dashboard.js" in addresses
