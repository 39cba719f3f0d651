"""``from=`` and ``until=``: which entries are served when, and what changes at a boundary."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.model.endpoint import Kind
from mop_config.server.parsing.parser import parse
from mop_config.server.parsing.problems import Code
from mop_config.server.parsing.render import Built, build
from mop_config.server.settings import UrlRules

DAY = 86400.0
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def built(text: str, at: float = NEW_YEAR) -> Built:
    return build(parse(text), UrlRules(), at)


def api(text: str, at: float = NEW_YEAR) -> list[tuple[str, int]]:
    """The hosts that are served at a moment, with their priorities."""
    endpoints = built("ApiList:\n" + text, at).config.api_endpoints
    return [(endpoint.url.split("/")[2], endpoint.priority) for endpoint in endpoints]


def codes(text: str) -> list[Code]:
    problems = built("ApiList:\nz.example\n" + text).problems.kept
    return [p.code for p in problems if p.code is not Code.FEW_ENDPOINTS]


@pytest.mark.parametrize(
    ("words", "start", "end"),
    [
        ("from=2027-01-01", 0, None),
        ("from=2027-01-01T00:00:00Z", 0, None),
        ("from=2027-01-01t00:00:00z", 0, None),
        ("from=2027-01-01T08:00:00+08:00", 0, None),
        ("from=2026-12-31T19:00:00-05:00", 0, None),
        ("from=2027-01-01T00:00:00.5Z", 0.5, None),
        ("from=2027-01-01T00:00:00.500000000Z", 0.5, None),
        ("UNTIL=2027-01-02", None, DAY),
        ("until=2027-01-02 priority=7 from=2027-01-01", 0, DAY),
    ],
)
def test_a_window_is_half_open(words: str, start: float | None, end: float | None) -> None:
    """From its first moment on, and until just before its last."""
    text = f"a.example {words}\n"
    for offset in (-2 * DAY, -0.01, 0.0, 0.25, 0.5, DAY - 0.01, DAY, 9 * DAY):
        expected = (start is None or start <= offset) and (end is None or offset < end)
        assert bool(api(text, NEW_YEAR + offset)) is expected, offset


@pytest.mark.parametrize(
    "last", ["9999-12-31", "9999-12-31T23:59:59-08:00", "9999-12-31T23:59:59.999999Z"]
)
def test_the_end_of_the_calendar_is_a_boundary_like_others(last: str) -> None:
    """A time beyond the last UTC second that can be written is that second."""
    [change] = built(f"ApiList:\na.example until={last}\n").planned
    assert change.as_dict()["at"].startswith("9999-12-31T")


def test_the_beginning_of_the_calendar_is_past() -> None:
    assert codes("a.example until=0001-01-01T00:00:00+08:00\n") == [Code.EXPIRED]
    assert api("a.example from=0001-01-01T00:00:00+08:00\n") == [("a.example", 0)]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("from=2027-13-01", Code.BAD_WINDOW),
        ("from=2027-02-30", Code.BAD_WINDOW),
        ("from=tomorrow", Code.BAD_WINDOW),
        ("from=", Code.BAD_WINDOW),
        ("from=2027-01-01T00:00:00", Code.BAD_WINDOW),
        ("from=2027-01-01T25:00:00Z", Code.BAD_WINDOW),
        ("from=20270101", Code.BAD_WINDOW),
        ("from=2027-W01-1", Code.BAD_WINDOW),
        ("from=0000-01-01", Code.BAD_WINDOW),
        ("from=2027-01-02 until=2027-01-01", Code.BAD_WINDOW),
        ("from=2027-01-02 until=2027-01-02T00:00:00Z", Code.BAD_WINDOW),
        ("from=2027-01-02 from=2027-01-03", Code.UNKNOWN_ATTRIBUTE),
        ("until=2026-12-31", Code.EXPIRED),
        ("until=2027-01-01", Code.EXPIRED),
    ],
)
def test_a_window_that_is_wrong_or_past(words: str, code: Code) -> None:
    assert codes(f"a.example {words}\n") == [code]


def test_an_expired_entry_of_both_kinds_is_one_warning() -> None:
    found = built("DomainList:\na.example until=2026-01-01\nb.example\nc.example\n").problems.kept
    assert [(p.code, p.line) for p in found] == [(Code.EXPIRED, 2)]


def test_an_entry_outside_its_window_keeps_its_position() -> None:
    """Priorities never shift at a boundary."""
    text = "a.example until=2027-01-01\nb.example from=2027-02-01\nc.example\n"
    assert api(text, NEW_YEAR - 1) == [("a.example", 0), ("c.example", 2)]
    assert api(text, NEW_YEAR) == [("c.example", 2)]
    assert api(text, NEW_YEAR + 31 * DAY) == [("b.example", 1), ("c.example", 2)]


def test_duplicates_are_judged_among_overlapping_windows() -> None:
    assert codes("a.example until=2027-06-01\na.example from=2027-06-01\n") == []
    assert codes("a.example until=2027-06-02\na.example from=2027-06-01\n") == [Code.DUPLICATE]
    assert codes("a.example\na.example from=2027-06-01\n") == [Code.DUPLICATE]
    three = "a.example until=2027-06-01\na.example from=2027-06-01 until=2027-07-01\n"
    assert codes(three + "a.example from=2027-07-01\n") == []
    assert codes(three + "a.example from=2027-06-15\n") == [Code.DUPLICATE]


def test_the_plan_names_each_boundary_to_come() -> None:
    text = "ApiList:\na.example until=2027-03-01\nb.example from=2027-02-01 until=2027-03-01\n"
    built_now = built(text + "SocketList:\nc.example from=2026-12-31\n")
    assert [(c.kind, c.added, c.url.split("/")[2]) for c in built_now.planned] == [
        (Kind.API, True, "b.example"),
        (Kind.API, False, "a.example"),
        (Kind.API, False, "b.example"),
    ]
    assert built_now.boundary == NEW_YEAR - DAY


moments = st.integers(0, 12)
Days = tuple[int | None, int | None]


def not_empty(days: Days) -> bool:
    start, end = days
    return start is None or end is None or start < end


windows = st.tuples(st.none() | moments, st.none() | moments).filter(not_empty)


def line(host: str, window: Days) -> str:
    words = [host]
    for name, day in zip(("from", "until"), window, strict=True):
        if day is not None:
            words.append(f"{name}={datetime.fromtimestamp(NEW_YEAR + day * DAY, UTC):%Y-%m-%d}")
    return " ".join(words) + "\n"


@given(st.lists(st.tuples(st.sampled_from("abc"), windows), max_size=8), moments)
def test_a_list_changes_at_its_boundaries_only(entries: list[tuple[str, Days]], day: int) -> None:
    """Between two boundaries the list is one; each planned change happens, and no other."""
    text = "DomainList:\n" + "".join(line(f"{host}.example", window) for host, window in entries)
    at = NEW_YEAR + day * DAY
    now = built(text, at)
    assert built(text, max(now.boundary, 0.0)).config == now.config or not now.boundary
    following = now.planned[0].at if now.planned else at + 99 * DAY
    assert following > at >= now.boundary
    assert built(text, following - 0.01).config == now.config
    # Played forward, the plan gives every later list.
    urls = {endpoint.url for endpoint in now.config.api_endpoints}
    for change in now.planned:
        assert change.at > at
    for moment in sorted({change.at for change in now.planned}):
        here = [c for c in now.planned if c.at == moment and c.kind is Kind.API]
        urls -= {c.url for c in here if not c.added}
        urls |= {c.url for c in here if c.added}
        assert urls == {endpoint.url for endpoint in built(text, moment).config.api_endpoints}


@given(st.lists(st.tuples(st.sampled_from("abcd"), windows), max_size=8), moments, moments)
def test_an_endpoint_has_one_priority_for_ever(
    entries: list[tuple[str, Days]], first: int, second: int
) -> None:
    """However many entries are outside their windows; an entry is known by its line."""
    text = "DomainList:\n" + "".join(
        line(f"{host}{number}.example", window) for number, (host, window) in enumerate(entries)
    )
    lists = [built(text, NEW_YEAR + day * DAY).config.api_endpoints for day in (first, second)]
    ranks: dict[str, int] = {}
    for endpoint in (*lists[0], *lists[1]):
        assert ranks.setdefault(endpoint.url, endpoint.priority) == endpoint.priority
