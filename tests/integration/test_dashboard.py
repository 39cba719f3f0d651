"""The dashboard in a real browser: it shows the server's changes and is accessible."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import (
    Browser,
    BrowserContext,
    HttpCredentials,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from mop_config import qr
from mop_config.server.auth import Token, digest, line_of

from ..client.handmade import OK, handmade
from ..conftest import below, browsers, need_program
from ..servers import STATUS, Server, running
from ..waiting import wait_for

GOOD = """DomainList:
one.example
two.example priority=0
IPList:
192.0.2.1 server_name=api.example.com
"""
#: Text that an attacker may write into the file.
HOSTILE = f"""DomainList:
one.example
<script>document.title='taken'</script>
a\u202eexe.example
<img/src=x/onerror=alert(1)>
{"long" * 2000}_.example
IPList:
10.0.0.0/8
"""
#: Without these options the browser contacts its vendor, or keeps a spare process.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=SpareRendererForSitePerProcess",
    "--host-resolver-rules=MAP mop.example 127.0.0.1",
]
PHONE = ViewportSize(width=360, height=740)
WIDE = ViewportSize(width=1280, height=800)
#: Seconds within which the page must show an edit.
SOON = 2.0
#: Milliseconds that any step may take on a busy machine.
PATIENCE = 20_000
expect.set_options(timeout=PATIENCE)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = need_program("chromium")
    with sync_playwright() as playwright:
        before = below(os.getpid())
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        browsers.update(below(os.getpid()) - before)
        # Threads and descriptors for the browser start with its first page and stay.
        browser.new_page().close()
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Run a server whose workers answer one request at a time."""
    folder = tmp_path_factory.mktemp("dashboard")
    file = folder / "endpoints.txt"
    file.write_text(GOOD)
    with running(folder, file, WORKER_CLASS="sync") as server:
        yield server, file


@pytest.fixture
def server(served: tuple[Server, Path]) -> Server:
    """Return the server with the good file in place."""
    edit(served, GOOD)
    return served[0]


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=WIDE, locale="en-US")
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Open]:
    """Open a page and wait until its script polls the server; a console message is a failure."""
    complaints: list[str] = []

    def opened(server: Server, path: str = "/", host: str = "127.0.0.1") -> Page:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(f"http://{host}:{server.port}{path}")
        expect(page.locator("#live")).not_to_be_empty(timeout=PATIENCE)
        return page

    yield opened
    assert complaints == []


def go_live(page: Page, server: Server) -> None:
    """Open a page on a server that will fail, so console messages are allowed."""
    page.goto(f"http://127.0.0.1:{server.port}/")
    expect(page.locator("#live")).to_have_text("Live", timeout=PATIENCE)


def edit(served: tuple[Server, Path], text: str) -> None:
    """Write a text to the file, and wait until every worker has applied or refused the text."""
    server, file = served
    if file.exists() and file.read_text() == text:
        return
    before = {w["pid"]: w["last_reload"]["at"] for w in server.status()["workers"]}
    replace(file, text)

    def done() -> bool:
        now = {w["pid"]: w["last_reload"]["at"] for w in server.status()["workers"]}
        return now.keys() == before.keys() and all(now[pid] > before[pid] for pid in now)

    wait_for(done, seconds=30, what="the workers have read the file")


def replace(file: Path, text: str) -> None:
    scratch = file.with_name("scratch")
    scratch.write_text(text)
    os.replace(scratch, file)


def mark(page: Page) -> None:
    """Set a variable in the page that a reload would clear."""
    page.evaluate("window.marked = true")


def is_marked(page: Page) -> bool:
    return bool(page.evaluate("window.marked === true"))


def test_an_edit_shows_within_two_seconds_without_a_load(
    server: Server, served: tuple[Server, Path], open_page: Open
) -> None:
    """An edit appears without a reload; focus, selection, scroll position and open details stay."""
    page = open_page(server)
    mark(page)
    page.locator(".events details").first.evaluate("details => details.open = true")
    page.locator("#room_id").fill("a room")
    page.locator("#room_id").evaluate("field => field.setSelectionRange(2, 6)")
    page.evaluate("scrollTo(0, 200)")
    page.wait_for_function("scrollY === 200")
    seconds = []
    for attempt in range(5):
        host = f"new{attempt}.example"
        began = time.monotonic()
        replace(served[1], GOOD.replace("one.example", host))
        expect(page.locator("td.url", has_text=host)).to_have_count(2, timeout=PATIENCE)
        seconds.append(time.monotonic() - began)
        if seconds[-1] < SOON:
            break
    assert min(seconds) < SOON
    assert is_marked(page)
    assert page.evaluate("document.activeElement.id") == "room_id"
    assert page.evaluate(
        "[document.activeElement.selectionStart, document.activeElement.selectionEnd]"
    ) == [2, 6]
    assert page.evaluate("scrollY") == 200
    # The new entry has moved the open details down.
    assert page.locator(".events details[open]").count() == 1
    expect(page.locator("td.url", has_text="one.example")).to_have_count(0)
    expect(page.locator(".events > li").first).to_contain_text("2 added, 2 removed, 0 changed")
    url = page.locator("td.url", has_text="https://two.example/api/v1").locator("bdi")
    url.evaluate("element => getSelection().selectAllChildren(element)")
    edit(served, GOOD)
    expect(page.locator("td.url", has_text="one.example")).to_have_count(2)
    assert page.evaluate("String(getSelection())") == "https://two.example/api/v1"


def test_a_server_that_is_lost_is_told_of_and_comes_back(
    tmp_path: Path, browser: Browser, context: BrowserContext
) -> None:
    """After a kill the page shows a message; after a restart it shows the new list unreloaded."""
    file = tmp_path / "endpoints.txt"
    file.write_text(GOOD)
    page = context.new_page()
    with running(tmp_path, file, workers=1) as server:
        port = server.port
        go_live(page, server)
        mark(page)
        server.stop(signal.SIGKILL)
        message = page.locator("#connection")
        expect(message).to_contain_text("does not answer", timeout=PATIENCE)
        expect(page.locator("#live")).to_be_empty()
        expect(page.locator("td.url", has_text="one.example")).to_have_count(2)
        expect(message).to_have_attribute("role", "status")
        # The title is all that a background tab shows.
        assert page.title().startswith("No answer · Fresh")
    file.write_text(GOOD.replace("one.example", "another.example"))
    with running(tmp_path, file, workers=1, PORT=str(port)):
        expect(message).to_have_text("The server answers again.", timeout=PATIENCE)
        expect(page.locator("td.url", has_text="another.example")).to_have_count(2)
        expect(page.locator("#live")).to_have_text("Live")
        assert page.title().startswith("Fresh")
        assert is_marked(page)
        page.close()


def test_a_server_that_hangs_is_not_shown_as_live(
    tmp_path: Path, browser: Browser, context: BrowserContext
) -> None:
    """A server that accepts connections without answering is not shown as live."""
    file = tmp_path / "endpoints.txt"
    file.write_text(GOOD)
    page = context.new_page()
    with running(tmp_path, file, workers=1) as server:
        go_live(page, server)
        processes = [server.pid, *server.workers]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            expect(page.locator("#live")).to_be_empty(timeout=10_000)
            expect(page.locator("#connection")).to_contain_text("does not answer", timeout=15_000)
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
        expect(page.locator("#live")).to_have_text("Live", timeout=PATIENCE)
        page.close()


def test_who_logs_in_sees_the_health_and_who_may_not_is_told(
    tmp_path: Path, browser: Browser
) -> None:
    """Every request of the page carries the browser's login; without a login, the page says so."""
    token, tokens = "a-token-of-this-test", tmp_path / "tokens"
    tokens.write_text(line_of(Token("operator", digest(token), False)))
    environ: dict[str, Any] = {
        "ENDPOINT_TOKENS_FILE": str(tokens),
        "ENDPOINT_PROBE_INTERVAL": "1",
        "WEB_CONCURRENCY": "1",
    }
    good = tokens.read_text()
    with handmade(lambda request: OK) as alive, handmade(lambda request: OK) as other:
        lists = f"ApiList:\n{alive.url}\nSocketList:\n{other.url}\n"
        (tmp_path / "endpoints.txt").write_text(lists)
        login = HttpCredentials(username="operator", password=token)
        with (
            running(tmp_path, tmp_path / "endpoints.txt", workers=0, **environ) as server,
            browser.new_context(http_credentials=login, locale="en-US") as context,
        ):
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{server.port}/")
            expect(page.locator("#live")).to_have_text("Live", timeout=PATIENCE)
            api = page.locator("tbody tr", has_text=alive.url)
            expect(api.locator(".health .tag")).to_have_text("healthy", timeout=PATIENCE)
            expect(api.locator(".latency")).to_contain_text("ms")
            plot = api.locator(".plot svg")
            expect(plot).to_have_attribute("aria-label", re.compile("last 24 hours.*100 %"))
            assert plot.locator("polyline").count() == plot.locator("rect.good").count() == 1
            expect(api.locator(".scale")).to_contain_text("ms")
            results = Axe().run(page)
            assert results.violations_count == 0, results.generate_report()
            kinds = page.locator(".kinds svg")
            expect(kinds.first).to_have_attribute(
                "aria-label", "last 24 hours: 1 to 1 of 1 API endpoints were up"
            )
            # A plain HTTP server answers, but without a Socket.io handshake.
            expect(page.locator(".verdict")).to_contain_text(
                "No Socket.io endpoint is up", timeout=PATIENCE
            )
            assert page.title().startswith("No Socket.io endpoint is up")
            expect(page.locator(".state.fresh.bad")).to_have_count(1)
            assert len(scanned(page).api_endpoints) == 1
            tokens.write_text(line_of(Token("operator", digest("another-token"), False)))
            expect(page.locator("#connection")).to_contain_text("HTTP 401", timeout=PATIENCE)
            expect(page.locator("#live")).to_be_empty()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            tokens.write_text(good)
            bearer = {"Authorization": f"Bearer {token}"}
            wait_for(lambda: server.get(STATUS, **bearer).status == 200)
            # Further requests with a refused login would open the browser's login dialogue.
            assert asked == []
            page.evaluate("dispatchEvent(new Event('online'))")
            expect(page.locator("#live")).to_have_text("Live", timeout=PATIENCE)
    assert token not in server.log


def listen(place: Locator) -> None:
    """Record every text of an element from now on, since some texts stay for two seconds only."""
    place.evaluate(
        "element => { const texts = element.texts = [];"
        " new MutationObserver(() => texts.push(element.textContent))"
        ".observe(element, { childList: true, characterData: true, subtree: true }) }"
    )


def heard(place: Locator) -> list[str]:
    """Return every recorded text of an element."""
    return list(place.evaluate("element => element.texts"))


def test_a_url_is_copied(server: Server, context: BrowserContext, open_page: Open) -> None:
    """A button copies the URL, and a live region announces that to screen readers too."""
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_page(server)
    button = page.get_by_role("button", name="Copy https://two.example/api/v1")
    words = [(button, "CopyCopied"), (page.locator("#said"), "Copied: https://two.example/api/v1")]
    for place, _ in words:
        listen(place)
    button.click()
    wait_for(lambda: all(said in heard(place) for place, said in words))
    assert page.evaluate("navigator.clipboard.readText()") == "https://two.example/api/v1"


def test_a_url_is_copied_where_the_browser_has_no_clipboard(
    server: Server, open_page: Open
) -> None:
    """Copying works without the clipboard API, as over plain http from another machine."""
    page = open_page(server, host="mop.example")
    assert page.evaluate("navigator.clipboard === undefined")
    button = page.get_by_role("button", name="Copy https://two.example/api/v1")
    button.focus()
    listen(page.locator("#said"))
    page.keyboard.press("Enter")
    wait_for(lambda: "Copied: https://two.example/api/v1" in heard(page.locator("#said")))
    assert button.evaluate("button => button === document.activeElement")
    page.locator("#room_id").focus()
    page.keyboard.press("Control+V")
    expect(page.locator("#room_id")).to_have_value("https://two.example/api/v1")


def scanned(page: Page) -> Any:
    """Return the decoded list of the QR code on the screen."""
    image = page.locator("figure img")
    page.wait_for_function(
        "() => { const i = document.querySelector('figure img');"
        " return i !== null && i.complete && i.naturalWidth > 0 }"
    )
    return qr.parse(qr.scan(image.screenshot()))


def test_an_app_can_scan_the_code_that_was_chosen(
    server: Server, served: tuple[Server, Path], open_page: Open
) -> None:
    """The code follows the chosen format, room and length, and each change of the list."""
    page = open_page(server)
    mark(page)
    expect(page.locator("figcaption .tag")).to_have_text("full")
    assert len(scanned(page).api_endpoints) == 3
    page.get_by_label("Format").select_option("single")
    page.get_by_label("Room (optional)").fill("会议室 7")
    expect(page.locator("figcaption .tag")).to_have_text("single")
    expect(page.locator("figure img")).to_have_attribute("src", re.compile("room_id="))
    data = wait_for(lambda: (found := scanned(page)).room_id == "会议室 7" and found, every=0.2)
    assert [endpoint.url for endpoint in data.api_endpoints] == ["https://one.example/api/v1"]
    edit(served, GOOD.replace("one.example", "moved.example"))
    wait_for(
        lambda: scanned(page).api_endpoints[0].url == "https://moved.example/api/v1", every=0.2
    )
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    assert download.value.suggested_filename == "endpoints.png"
    assert qr.parse(qr.scan(download.value.path().read_bytes())).room_id == "会议室 7"
    page.get_by_label("Limit per kind").fill("0")
    expect(page.locator("#qr-problem")).to_contain_text("limit")
    expect(page.locator("figure")).to_have_count(0)
    assert is_marked(page)
    # The choice is in the URL, so it can be bookmarked.
    chosen = parse_qs(urlsplit(page.url).query)
    assert chosen == {"format": ["single"], "room_id": ["会议室 7"], "limit": ["0"]}


def test_a_full_code_is_read_when_it_is_opened_large(
    server: Server, served: tuple[Server, Path], open_page: Open, tmp_path: Path
) -> None:
    """Both decoders read the full-size code from the screen."""
    hosts = [f"api{number}.example.com" for number in range(25)]
    edit(served, "\n".join(["DomainList:", *hosts, ""]))
    page = open_page(server)
    expect(page.locator("figcaption .tag")).to_have_text("full")
    page.locator("figure img").click()
    page.wait_for_url("**/qr.svg*")
    shot = tmp_path / "large.png"
    shot.write_bytes(page.screenshot())
    text = qr.scan(shot.read_bytes())
    assert len(qr.parse(text).api_endpoints or ()) == len(hosts)
    zbar = [need_program("zbarimg"), "--raw", "-q", str(shot)]
    assert subprocess.run(zbar, capture_output=True, check=True, text=True).stdout.strip() == text


def test_a_long_list_is_filtered_and_says_what_fits_a_code(
    server: Server, served: tuple[Server, Path], open_page: Open
) -> None:
    """Of a long list a hundred rows of each kind are shown; typing in the filter shows others."""
    hosts = "\n".join(f"host{number}.example" for number in range(2000))
    edit(served, f"DomainList:\n{hosts}\n")
    page = open_page(server, "/?format=full")
    expect(page.locator("tbody tr")).to_have_count(200)
    expect(page.locator("#endpoints .note")).to_contain_text("200 of 4,000 shown")
    expect(page.locator("#qr-problem")).to_contain_text("bytes")
    page.get_by_label("Filter by URL").press_sequentially("HOST1999")
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator("#endpoints .note")).to_have_text("2 of 4,000 match")
    page.get_by_label("Filter by URL").fill("nowhere")
    expect(page.locator("#endpoints .note")).to_have_text("No endpoint matches this filter.")
    expect(page.get_by_label("Filter by URL")).to_be_focused()
    page.get_by_label("Filter by URL").fill("")
    expect(page.locator("tbody tr")).to_have_count(200)


def test_a_long_list_is_sorted_and_left_without_scrolling(
    server: Server, served: tuple[Server, Path], open_page: Open
) -> None:
    """Sorting is kept in the URL, and a link leads past the list to the history."""
    hosts = "\n".join(f"host{number:03}.example" for number in reversed(range(150)))
    edit(served, f"DomainList:\n{hosts}\n")
    page = open_page(server)
    mark(page)
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(200)
    expect(rows.first).to_contain_text("host149")
    page.get_by_label("Sort by").select_option("url")
    expect(rows.first).to_contain_text("host000")
    assert parse_qs(urlsplit(page.url).query) == {"sort": ["url"]}
    page.get_by_label("Filter by URL").fill("host14")
    expect(rows).to_have_count(20)
    expect(rows.first).to_contain_text("host140")
    page.get_by_label("Filter by URL").fill("")
    expect(rows).to_have_count(200)
    page.locator("nav.jump").get_by_role("link", name="Reload history").click()
    expect(page.locator("#history-title")).to_be_in_viewport()
    expect(page.locator("#history")).to_be_focused()
    assert is_marked(page)


@pytest.mark.parametrize(
    ("zone", "own"), [("Asia/Kathmandu", True), ("UTC", False), ("Pacific/Kiritimati", True)]
)
def test_times_are_told_by_the_readers_clock_too(
    browser: Browser, server: Server, zone: str, own: bool
) -> None:
    """Times are shown in UTC, as in logs, and also in local time if that differs."""
    with browser.new_context(timezone_id=zone, locale="en-GB") as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        expect(page.locator("#live")).to_have_text("Live", timeout=PATIENCE)
        moment = page.locator("dl time").first
        expect(moment).to_contain_text("UTC")
        told = page.locator("dl .ago").first.inner_text()
        utc = datetime.fromisoformat(moment.get_attribute("datetime") or "")
        there = utc.astimezone(ZoneInfo(zone))
        assert (f"{there:%H:%M:%S}" in told) is own
        assert (" · " in told) is own
        assert (there.strftime("%b") in told) is (there.date() != utc.date())
        assert told.endswith("ago")


def test_what_is_wrong_is_shown_where_it_is(
    server: Server, served: tuple[Server, Path], open_page: Open
) -> None:
    """A problem is shown with line, text and caret; a removed file is reported later."""
    edit(served, GOOD + "  198.51.100.1, 9.10.11.999\n")
    page = open_page(server)
    problem = page.locator(".cards li", has_text="bad-ip")
    expect(problem).to_contain_text("line 6, column 17")
    lines = problem.locator("pre span").inner_text().splitlines()
    assert lines[0].index("9.10.11.999") == lines[1].index("^") == 16
    boxes = [problem.locator(part).bounding_box() for part in ("pre bdo", "pre i")]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert abs(boxes[0]["x"] - boxes[1]["x"]) < 1
    expect(page.locator(".verdict")).to_contain_text("1 error")
    served[1].unlink()
    expect(page.locator(".state.rejected")).to_contain_text("is missing", timeout=PATIENCE)
    assert page.title().startswith("Rejected")
    expect(page.locator(".verdict")).to_have_attribute("role", "status")
    expect(page.locator("tbody tr")).to_have_count(8)


def test_hostile_text_stays_text(
    server: Server, served: tuple[Server, Path], context: BrowserContext, open_page: Open
) -> None:
    """Hostile text runs no script, reverses no text and breaks no layout; nor does the URL."""
    edit(served, HOSTILE)
    page = open_page(server, "/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&room_id=%3Cb%3E%E2%80%AE")
    page.set_viewport_size(PHONE)
    expect(page.locator(".problems")).to_contain_text("<script>document.title='taken'</script>")
    expect(page.locator(".problems")).to_contain_text(r"a\u202eexe.example")
    assert "\u202e" not in page.locator("body").inner_text()
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("main img").count() == 1
    assert "taken" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_it_speaks_the_readers_language(
    browser: Browser, server: Server, served: tuple[Server, Path]
) -> None:
    """The page follows Accept-Language, and the language switch is kept in the URL."""
    edit(served, GOOD + "9.10.11.999\n")
    with browser.new_context(locale="zh-CN") as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/?q=two")
        expect(page.locator("#state-title")).to_contain_text("最新")
        expect(page.locator("#live")).to_have_text("实时")
        expect(page.locator(".problems")).to_contain_text("IP 地址无效")
        expect(page.locator(".ago").first).to_contain_text("前")
        assert page.locator("html").get_attribute("lang") == "zh-Hans"
        page.get_by_role("link", name="English").click()
        expect(page.locator("#state-title")).to_contain_text("Fresh")
        assert parse_qs(urlsplit(page.url).query) == {"lang": ["en"], "q": ["two"]}
        page.get_by_label("Filter by URL").fill("one")
        page.wait_for_url("**/?q=one&lang=en")
        expect(page.locator("tbody tr")).to_have_count(2)
        expect(page.locator("#state-title")).to_contain_text("Fresh")


def test_everything_is_reached_by_the_keyboard(server: Server, open_page: Open) -> None:
    """The Tab key reaches every control in a sensible order, with a visible focus and no trap."""
    page = open_page(server)
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the endpoints")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#endpoints")).to_be_focused()
    walked = []
    for _ in range(80):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "() => { const e = document.activeElement; window.seen ??= new Set([document.body]);"
            " return seen.has(e) ? '' : seen.add(e) && (e.id || e.getAttribute('aria-label')"
            " || e.textContent.trim() || e.querySelector('img')?.alt) }"
        )
        if name == "":
            break
        walked.append(name)
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", name
    assert walked[0] == "q"
    assert sum(name.startswith("Copy https://") for name in walked) == 6
    order = [name for name in walked if name in {"q", "format", "room_id", "limit"}]
    assert order == ["q", "format", "room_id", "limit"]
    assert any("added" in name for name in walked)
    assert {"Download PNG", "Download SVG", "as text (JSON)", "openapi.json"} <= set(walked)
    summary = page.locator(".events summary").first
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".events details[open]")).to_have_count(1)


@pytest.mark.parametrize(
    ("language", "schemes"), [("en", ("light", "dark")), ("zh", ("dark", "light"))]
)
def test_axe_finds_no_barrier(
    server: Server,
    served: tuple[Server, Path],
    open_page: Open,
    language: str,
    schemes: tuple[Literal["light", "dark"], ...],
) -> None:
    """axe finds no problem in light, dark, wide and phone layouts, with problems and diffs."""
    edit(served, GOOD + "".join(f"bad_{number}.example\n" for number in range(12)))
    served[1].unlink()
    page = open_page(server, f"/?lang={language}")
    expect(page.locator(".state.rejected")).to_be_visible(timeout=PATIENCE)
    leaving = f"{language}.example\nleaving.example until=2999-01-01"
    replace(served[1], HOSTILE.replace("one.example", leaving))
    expect(page.locator("td.url", has_text=f"{language}.example")).to_have_count(2)
    planned = page.locator("#planned li")
    expect(planned).to_have_count(2)
    expect(planned.first.locator(".ago")).to_contain_text({"en": "days", "zh": "天后"}[language])
    page.locator(".events details").first.evaluate("details => details.open = true")
    for scheme, size in zip(schemes, (WIDE, PHONE), strict=True):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size(size)
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.evaluate("document.getAnimations().length") == 0


def test_without_javascript_the_whole_state_is_there(
    browser: Browser, server: Server, served: tuple[Server, Path]
) -> None:
    """Without JavaScript the page has the whole state, the code and working forms."""
    edit(served, GOOD + "9.10.11.999\n")
    with browser.new_context(java_script_enabled=False, locale="en-US") as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        with page.expect_response("**/qr.svg*") as image:
            page.goto(f"http://127.0.0.1:{server.port}/")
        assert (image.value.status, image.value.headers["content-type"]) == (200, "image/svg+xml")
        assert "JavaScript is off" in (page.locator(".notice").text_content() or "")
        expect(page.locator(".notice")).to_be_visible()
        for text in ("Fresh", "all 2 workers", "line 6, column 1", "applied"):
            expect(page.locator("body")).to_contain_text(text)
        expect(page.locator("tbody tr")).to_have_count(6)
        expect(page.locator(".copy").first).to_be_hidden()
        page.get_by_label("Filter by URL").fill("two")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("tbody tr")).to_have_count(2)
        page.get_by_label("Format").select_option("list")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("figcaption .tag")).to_have_text("list")
        expect(page.locator("tbody tr")).to_have_count(2)
