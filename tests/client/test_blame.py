"""Which statuses count against an endpoint, and how errors and logs name the endpoint."""

import logging
import pickle
import re
import traceback

import httpx2
import pytest

from mop_config.client import Policy

from ..waiting import wait_for
from .driver import Driver
from .handmade import Answer, Asked, handmade
from .scripted import scripted


def test_the_users_set_of_bad_statuses_counts(kind: str) -> None:
    """``bad_status`` replaces the default set: 599 moves the request on, 502 is returned."""
    policy = Policy(bad_status=frozenset({599}))
    with (
        scripted({"a": ("599", "502"), "b": ("502",)}) as ([a, b], asked),
        Driver(kind, [a.url, b.url], policy) as driver,
    ):
        answer = driver.get("/users")
        assert (answer.status_code, answer.extensions["endpoint"]) == (502, b.url)
        assert asked == ["a", "b"]
        assert (driver.state(a.url), driver.state(b.url)) == ("suspect", "healthy")


@pytest.mark.parametrize("wrong", ["", b"", 200, "502", {"502"}, {200}])
def test_a_set_of_statuses_that_is_none_is_refused(wrong: object) -> None:
    """``Policy`` rejects an invalid ``bad_status`` and names the value and the allowed range."""
    named = re.escape(repr(wrong))
    with pytest.raises(ValueError, match=f"bad_status must .* from 400 to 599, not {named}$"):
        Policy(bad_status=wrong)  # type: ignore[arg-type]


def test_any_collection_of_statuses_will_do() -> None:
    """``Policy`` accepts any collection of statuses and stores it as a frozenset."""
    assert Policy(bad_status=[502, 599]).bad_status == {502, 599}  # type: ignore[arg-type]
    assert Policy(bad_status=()).bad_status == frozenset()  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [500, 501, 403, 451])
def test_three_odd_answers_in_a_row_trigger_one_check(kind: str, status: int) -> None:
    """Three odd statuses in a row after a 200 trigger one health check and count no failure."""
    now = [200]

    def answer(asked: Asked) -> Answer:
        return (200, {}, b"") if asked.path == "/health" else (now[0], {}, b"")

    with handmade(answer) as server, Driver(kind, [server.url]) as driver, driver.checking():
        wait_for(lambda: server.count("/health") == 1)
        now[0] = status
        driver.get("/")  # without a good answer before, the status may be normal here
        driver.get("/")
        driver.get("/")
        now[0] = 200
        driver.get("/")
        now[0] = status
        driver.get("/")
        driver.get("/")
        assert server.count("/health") == 1
        driver.get("/")
        wait_for(lambda: server.count("/health") == 2)
        for _ in range(4):
            assert driver.get("/").status_code == status
        assert driver.state(server.url) == "healthy"
        assert server.count("/health") == 2


def test_a_check_that_odd_answers_have_triggered_moves_the_client(kind: str) -> None:
    """If that health check fails too, the client moves to the next endpoint."""
    now = [200]
    policy = Policy(first_backoff=0.05, max_backoff=0.1)
    with (
        handmade(lambda asked: (now[0], {}, b"")) as sick,
        handmade() as well,
        Driver(kind, [sick.url, well.url], policy) as driver,
        driver.checking(),
    ):
        wait_for(lambda: driver.state(sick.url) == driver.state(well.url) == "healthy")
        driver.get("/")
        now[0] = 500
        for _ in range(3):
            assert driver.get("/").status_code == 500
        wait_for(lambda: driver.state(sick.url) != "healthy")
        assert driver.get("/").status_code == 200


def test_an_error_status_names_the_endpoint(kind: str) -> None:
    """``raise_for_status`` names the endpoint in a note; the error's URL is that of the pool."""
    with scripted({"a": ("500",)}) as ([a], _), Driver(kind, [a.url]) as driver:
        answer = driver.get("/users")
        with pytest.raises(httpx2.HTTPStatusError) as caught:
            answer.raise_for_status()
        assert f"answered by {a.url}" in "".join(traceback.format_exception(caught.value))
        assert "endpoint.invalid" in str(caught.value)
        assert driver.get("/warm").raise_for_status().text == "ok"
        again = pickle.loads(pickle.dumps(answer))
        with pytest.raises(httpx2.HTTPStatusError):
            again.raise_for_status()


@pytest.mark.parametrize(
    ("word", "error"),
    [("reset", httpx2.ReadError), ("close", httpx2.RemoteProtocolError)],
)
def test_an_error_of_the_wire_names_the_endpoint(
    kind: str, word: str, error: type[Exception]
) -> None:
    """A POST that may have been executed raises httpx2's error with a note on the endpoint."""
    with (
        scripted({"a": (word,)}) as ([a], _),
        Driver(kind, [a.url]) as driver,
        pytest.raises(error) as caught,
    ):
        driver.request("POST", "/users", content=b"x")
    assert caught.value.__notes__ == [f"at {a.url}"]


def test_a_body_that_breaks_off_names_the_endpoint(kind: str) -> None:
    """A truncated streamed body raises an error with a note on the endpoint."""
    with (
        scripted({"a": ("half",)}) as ([a], _),
        Driver(kind, [a.url]) as driver,
        pytest.raises(httpx2.RemoteProtocolError) as caught,
    ):
        driver.stream("/users", lambda part: True)
    assert caught.value.__notes__ == [f"at {a.url}"]


def test_suspicion_and_switch_are_one_line_each(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At INFO, the log gets one line for a suspicion, one for a switch, none for a request."""
    caplog.set_level(logging.INFO, logger="mop_config.client")
    with (
        scripted({"a": ("200", "502"), "b": ("200",)}) as ([a, b], _),
        Driver(kind, [a.url, b.url]) as driver,
    ):
        for _ in range(4):
            driver.get("/users")
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    suspected, switched = [line for line in lines if "api " in line[1]]
    assert suspected == (
        "INFO",
        f"api endpoint {a.url} is suspect (bad-status): it ranks last until a check clears it",
    )
    assert switched[0] == "WARNING"
    assert switched[1].startswith(f"api requests go to {b.url} instead of {a.url} (failed, ")
    assert len(lines) == 2


def test_the_log_names_the_endpoint(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG, each request logs one line with its endpoint and without its query."""
    caplog.set_level(logging.DEBUG, logger="mop_config.client")
    with (
        scripted({"a": ("200", "reset"), "b": ("500",)}) as ([a, b], _),
        Driver(kind, [a.url, b.url]) as driver,
    ):
        driver.get("/users?token=secret")
        with pytest.raises(httpx2.ReadError):
            driver.request("POST", "/pay", content=b"x")
        driver.get("/users")
    lines = [record.getMessage() for record in caplog.records]
    assert f"GET /users: 200 from {a.url}" in lines
    assert f"GET /users: 500 from {b.url}" in lines
    assert any(line.startswith(f"POST /pay failed at {a.url}: ReadError") for line in lines)
    assert not any("secret" in line for line in lines)
