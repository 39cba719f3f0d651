"""The guard decides which texts may replace the list that the host serves."""

import json
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.cli import run
from mop_config.errors import SourceError
from mop_config.server.parsing.problems import Code
from mop_config.server.parsing.render import (
    EMPTY_BODY,
    check_replaces,
    last_passed,
    render,
    with_planned_refusals,
)
from mop_config.server.settings import Settings, UrlRules

from ...servers import Server, running
from ...waiting import wait_for

RULES = UrlRules()


def text(api: int, socket: int, *more: str) -> str:
    """Return a text with a number of endpoints of each kind, always the first of the same names."""
    lists = "ApiList:\n" + "".join(f"a{n}.example\n" for n in range(api))
    lists += "SocketList:\n" + "".join(f"s{n}.example\n" for n in range(socket))
    return lists + "".join(f"{line}\n" for line in more)


REMOVES_3 = "# confirm: removes 3 api"


def refusal(before: str, after: str, settings: Settings) -> SourceError | None:
    served, rendering = (render(text.encode(), RULES, EMPTY_BODY) for text in (before, after))
    try:
        check_replaces(rendering, settings, served)
    except SourceError as error:
        return error
    return None


def verdict(before: str, after: str, settings: Settings) -> str:
    """Return the code of the refusal and the confirming lines, or ``accepted``."""
    if (error := refusal(before, after, settings)) is None:
        return "accepted"
    _, _, lines = str(error).partition("has used it: ")
    return f"{error.code} {lines}".strip()


@pytest.mark.parametrize(
    ("least", "before", "after", "expected"),
    [
        (0, text(2, 2), text(1, 0), "accepted"),
        (0, text(2, 2), text(0, 0), "no-endpoints"),
        (2, text(2, 2), text(2, 2), "accepted"),
        (2, text(2, 2), text(1, 2), "too-few"),
        (2, text(2, 2), text(2, 1), "too-few"),
        (2, text(2, 2), text(2, 0), "too-few"),
        # A kind that is not served is not guarded.
        (2, text(2, 0), text(2, 1), "accepted"),
        (2, text(0, 0), text(1, 1), "accepted"),
    ],
)
def test_the_smallest_number(least: int, before: str, after: str, expected: str) -> None:
    assert verdict(before, after, Settings(min_endpoints=least)) == expected


@pytest.mark.parametrize(
    ("share", "before", "after", "expected"),
    [
        (1.0, text(4, 4), text(0, 1), "accepted"),
        (0.5, text(4, 4), text(2, 2), "accepted"),
        (0.5, text(4, 4), text(1, 4), f"too-many-removed {REMOVES_3}"),
        (0.5, text(4, 4), text(4, 1), "too-many-removed # confirm: removes 3 socket"),
        (
            0.5,
            text(4, 4),
            text(1, 0),
            f"too-many-removed {REMOVES_3} and # confirm: removes 4 socket",
        ),
        (0.0, text(4, 4), text(9, 4), "accepted"),
        (0.0, text(4, 4), text(3, 4), "too-many-removed # confirm: removes 1 api"),
        # The confirming line must have the exact number, stand alone in its line, and be new.
        (0.5, text(4, 4), text(1, 4, REMOVES_3), "accepted"),
        (0.5, text(4, 4), text(1, 4, "  #  confirm:  removes 3  api "), "accepted"),
        (0.5, text(4, 4), text(1, 4, "# confirm: removes 2 api"), f"too-many-removed {REMOVES_3}"),
        (
            0.5,
            text(4, 4),
            text(1, 4, "# confirm: removes 3 socket"),
            f"too-many-removed {REMOVES_3}",
        ),
        (0.5, text(4, 4, REMOVES_3), text(1, 4, REMOVES_3), f"too-many-removed {REMOVES_3}"),
        (0.5, text(4, 4, REMOVES_3), text(1, 4, REMOVES_3, REMOVES_3), "accepted"),
        # An endpoint with another priority is not removed; a replaced endpoint is.
        (0.0, text(2, 2), text(2, 2).replace("a0.example", "a0.example priority=7"), "accepted"),
        (0.5, text(3, 2), text(3, 2).replace("\na", "\nb"), f"too-many-removed {REMOVES_3}"),
    ],
)
def test_the_largest_share_removed(share: float, before: str, after: str, expected: str) -> None:
    assert verdict(before, after, Settings(max_removed=share)) == expected


def test_a_used_line_is_asked_for_once_more() -> None:
    """The message says that a line in the text may have confirmed an earlier edit only."""
    settings = Settings(max_removed=0.5)
    again = "again if an earlier edit has used it: "
    expected = f"; to confirm it, add this line, {again}{REMOVES_3}"
    for lines in ((), (REMOVES_3,)):
        assert expected in str(refusal(text(4, 4, *lines), text(1, 4, *lines), settings))
    expected = f"; to confirm it, add each line, {again}{REMOVES_3} and # confirm: removes 3 socket"
    assert expected in str(refusal(text(4, 4), text(1, 1), settings))


PLAN = """ApiList:
a.example
b.example until=2027-01-02
c.example from=2027-01-02 until=2027-01-03
d.example until=2027-01-03
SocketList:
s.example until=2027-01-05
t.example until=2027-01-05
"""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), []),
        (Settings(min_endpoints=1), ["2027-01-05"]),
        (Settings(min_endpoints=2), ["2027-01-03", "2027-01-05"]),
        (Settings(max_removed=0.5), ["2027-01-03", "2027-01-05"]),
        (Settings(max_removed=0.0), ["2027-01-02", "2027-01-03", "2027-01-05"]),
    ],
)
def test_a_boundary_that_will_be_refused_is_a_warning(
    settings: Settings, expected: list[str]
) -> None:
    at = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert refused_days(PLAN, settings, at) == expected


def refused_days(plan: str, settings: Settings, at: float) -> list[str]:
    """Return the days of the boundaries that a text's warnings name."""
    rendering = render(plan.encode(), RULES, EMPTY_BODY, at)
    warned = with_planned_refusals(rendering, settings)
    found = [problem for problem in warned.problems if problem.code is Code.PLAN_REFUSED]
    assert warned.warnings - rendering.warnings == len(found)
    return [problem.message.split()[1][:10] for problem in found]


def test_each_boundary_of_a_long_text_is_judged() -> None:
    """A long list is judged like a short one: beforehand, and where boundaries were missed."""
    at = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    settings = Settings(max_removed=0.5)
    days = ["2027-01-02", "2027-01-03", "2027-01-04"]
    plan = "DomainList:\na.example\nb.example\n"
    plan += "".join(f"{name}.example until={day}\n" for name, day in zip("cde", days, strict=True))
    long = plan + "#" * (1 << 20)
    assert refused_days(long, Settings(max_removed=0.0), at) == days
    assert refused_days(long, settings, at) == []
    after = datetime(2027, 1, 5, tzinfo=UTC).timestamp()
    passed = [last_passed(text.encode(), settings, at, after) for text in (plan, long)]
    assert passed == [datetime(2027, 1, 4, tzinfo=UTC).timestamp()] * 2


def test_errors_of_a_strict_server_refuse_no_boundary() -> None:
    """Errors of the text are refused now, and say nothing about the boundaries."""
    at = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert refused_days(PLAN + "bad_host\n", Settings(strict=True), at) == []


def test_a_refusal_of_a_plan_asks_for_no_confirmation() -> None:
    """A confirming line is valid for the edit that adds it, so it confirms no later boundary."""
    at = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    rendering = render(PLAN.encode(), RULES, EMPTY_BODY, at)
    first, *_ = with_planned_refusals(rendering, Settings(max_removed=0.0)).problems
    assert first.message.startswith(
        "at 2027-01-02T00:00:00.000Z the planned change will be refused: it removes "
    )
    assert "confirm" not in first.message


def test_a_confirming_line_may_follow_a_byte_order_mark() -> None:
    """A text with a byte order mark may begin with the confirming line."""
    confirmed = f"\ufeff{REMOVES_3}\n{text(1, 4)}"
    assert verdict(text(4, 4), confirmed, Settings(max_removed=0.5)) == "accepted"


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.integers(1, 7)), max_size=8),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.integers(0, 2),
)
def test_a_plan_is_judged_as_its_boundaries_will_be(
    entries: list[tuple[str, int, int]], share: float, least: int
) -> None:
    """A boundary has a warning exactly if the guard would refuse the list of that moment."""
    start = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    settings = Settings(max_removed=share, min_endpoints=least)
    lines = ["ApiList:", "x.example", "y.example"]
    for name, begin, length in entries:
        first, last = (f"2027-01-{1 + day:02}" for day in (begin, begin + length))
        lines.append(f"{name}.example from={first} until={last}")
    plan = "\n".join(lines).encode()
    expected = []
    served = render(plan, RULES, EMPTY_BODY, start)
    for at in sorted({change.at for change in served.planned}):
        made = render(plan, RULES, EMPTY_BODY, at)
        before, after = (
            {endpoint["url"] for endpoint in json.loads(each.body)["api_endpoints"]}
            for each in (served, made)
        )
        if len(after) < least or len(before - after) > share * len(before):
            expected.append(datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d"))
        else:
            served = made
    assert refused_days(plan.decode(), settings, start) == expected


@pytest.mark.parametrize(
    "line",
    ["h{n}.example until={at}\n", "h.example from={at} until={end}\n"],
    ids=["many hosts", "one host"],
)
def test_a_long_plan_takes_time_in_proportion_to_its_length(line: str) -> None:
    """Four times as many windows take about four times as long."""

    def seconds(number: int) -> float:
        start = datetime(2027, 1, 1, tzinfo=UTC)
        moments = (start + timedelta(minutes=n) for n in range(number))
        plan = "ApiList:\nx.example\n" + "".join(
            line.format(n=n, at=f"{at:%Y-%m-%dT%H:%M:00Z}", end=f"{at:%Y-%m-%dT%H:%M:30Z}")
            for n, at in enumerate(moments)
        )
        began = time.process_time()
        rendering = render(plan.encode(), RULES, EMPTY_BODY, start.timestamp() - 60)
        with_planned_refusals(rendering, Settings(max_removed=0.5))
        return time.process_time() - began

    assert min(seconds(4000) for _ in range(2)) < 8 * min(seconds(1000) for _ in range(3))


def put(file: Path, content: str) -> None:
    scratch = file.with_suffix(".new")
    scratch.write_text(content)
    scratch.replace(file)


def reason(server: Server) -> str:
    status = server.status()
    assert status["state"] == "rejected"
    return str(status["last_reload"]["error"])


def test_real_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal holds over a restart, a line confirms one edit, and settings remove nothing."""
    file = tmp_path / "endpoints.txt"
    put(file, text(4, 4))
    state = str(tmp_path / "state")
    guarded = partial(running, tmp_path, file, ENDPOINT_MAX_REMOVED="0.5", ENDPOINT_STATE_DIR=state)
    with guarded() as server:
        before = set(server.etags())
        put(file, text(1, 4))
        wait_for(lambda: server.status()["state"] == "rejected")
        assert reason(server).endswith(f"has used it: {REMOVES_3}")
        assert set(server.etags()) == before
    with guarded() as server:
        assert REMOVES_3 in reason(server)
        assert set(server.etags()) == before
        put(file, text(1, 4, REMOVES_3))
        wait_for(lambda: server.status()["state"] == "fresh")
        assert before.isdisjoint(server.etags())
    with guarded(ENDPOINT_PROTOCOL="http") as server:
        assert server.status()["state"] == "fresh", "changed settings remove nothing"
        # The rollback command adds the confirming line that the guard requires.
        put(file, text(4, 4, REMOVES_3))
        wait_for(lambda: server.status()["counts"]["api"] == 4)
        monkeypatch.setenv("ENDPOINT_PROTOCOL", "http")
        monkeypatch.setenv("ENDPOINT_CONFIG_FILE", str(file))
        monkeypatch.setenv("ENDPOINT_MAX_REMOVED", "0.5")
        monkeypatch.setenv("ENDPOINT_STATE_DIR", state)
        small = etag_of(text(1, 4, REMOVES_3))
        assert run(["rollback", small, "--yes"]) == 0
        assert file.read_text().count(REMOVES_3) == 2
        assert server.status()["counts"]["api"] == 1


def etag_of(content: str) -> str:
    return render(content.encode(), RULES, EMPTY_BODY).etag
