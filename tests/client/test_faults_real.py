"""Behaviour of the client with each kind of faulty endpoint, over real servers and sockets.

The asserted durations are upper bounds that also hold on a busy machine; the benchmarks measure
the exact figures.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest

from mop_config.client import NoEndpointAvailable, Policy
from mop_config.health.probe import ProbeResult
from mop_config.model.endpoint import Endpoint
from mop_config.net.resolver import Resolver

from ..ports import closed_port
from ..waiting import wait_for
from .driver import Driver
from .fleet import Backend, Fleet, black_hole, fleet_in, silence, timed
from .handmade import OK, Answer, Asked, handmade
from .scripted import scripted

RACE = 0.25
#: Seconds that a busy machine may add to a known delay.
SLACK = 1.5


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Run an endpoint that works throughout the module."""
    with fleet_in(tmp_path_factory.mktemp("backup")) as fleet:
        yield fleet.add("backup", tls=("127.0.0.1",))


@pytest.fixture
def primary(fleet: Fleet) -> Backend:
    """Run an endpoint that the test may kill, freeze or change."""
    return fleet.add("primary")


def quickest(driver: Driver) -> float:
    """Return the fastest of five answers of the backup, in seconds: a fault would delay all."""
    seconds = []
    for _ in range(5):
        with timed() as took:
            assert driver.who() == "backup"
        seconds.append(took.seconds)
    return min(seconds)


# -- endpoints that cannot be dialled


@pytest.mark.parametrize("error", [TimeoutError("alarm"), LookupError("alarm")])
def test_an_exception_of_a_signal_handler_ends_a_dial(error: Exception) -> None:
    """What a signal handler raises during a dial reaches the caller, and blames no endpoint."""

    def handler(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with black_hole() as port, Driver("sync", [f"http://127.0.0.1:{port}"]) as driver:
            timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            with pytest.raises(type(error), match="alarm"):
                driver.get("/")
            timer.join()
            assert driver.manager.api_endpoints[0].failure_count == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_black_hole_costs_the_first_request_a_quarter_second(backup: Backend, kind: str) -> None:
    """A black hole costs the first request the race delay of 250 ms, and later ones nothing."""
    with black_hole() as port:
        urls = [f"http://127.0.0.1:{port}", backup.url]
        with Driver(kind, urls, verify=backup.fleet.trust()) as driver:
            with timed() as first:
                assert driver.who() == "backup"
            assert RACE < first.seconds < RACE + SLACK
            assert quickest(driver) < RACE
            assert driver.state(urls[0]) == "suspect"
            assert driver.manager.statistics()["api"]["switches"] == 1


def test_a_tls_handshake_that_stalls_costs_no_more(backup: Backend, kind: str) -> None:
    """A TLS handshake that stalls after TCP connects also costs only the race delay."""
    with silence() as port:
        urls = [f"https://127.0.0.1:{port}", backup.url]
        with Driver(kind, urls, verify=backup.fleet.trust()) as driver:
            with timed() as first:
                assert driver.request("POST", "/", content=b"x").json()["server"] == "backup"
            assert RACE < first.seconds < RACE + SLACK
            assert quickest(driver) < RACE


def test_others_learn_of_a_black_hole_before_the_first_request_is_answered(
    fleet: Fleet, kind: str
) -> None:
    """The endpoint is suspect once the dial race ends, not when the slow answer arrives."""
    slow = fleet.add("slow")
    slow.behave(delay=2.0)
    with black_hole() as port, Driver(kind, [f"http://127.0.0.1:{port}", slow.url]) as driver:
        began = time.perf_counter()
        known: list[float] = []

        def watch() -> None:
            wait_for(lambda: driver.state(driver.manager.api_endpoints[0].url) == "suspect")
            known.append(time.perf_counter() - began)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with timed() as took:
            assert driver.who() == "slow"
        watcher.join()
    assert took.seconds > 2
    assert known[0] < took.seconds - 0.3


def test_many_requests_at_once_lose_a_quarter_second_and_not_more(
    backup: Backend, kind: str
) -> None:
    """Concurrent requests lose one race delay, also over HTTP/2, where they share a connection."""
    for http2 in (False, True):
        with silence() as port:
            urls = [f"https://127.0.0.1:{port}", backup.url]
            with (
                Driver(kind, urls, verify=backup.fleet.trust(), http2=http2) as driver,
                timed() as took,
            ):
                answers = driver.at_once(12, "/who")
            assert [answer.json()["server"] for answer in answers] == ["backup"] * 12
            assert took.seconds < RACE + SLACK


def test_more_requests_than_connections_move_without_a_stall(fleet: Fleet, kind: str) -> None:
    """Forty requests over six connections to a server with two threads all move without a stall."""
    backup = fleet.add("backup", threads=2)
    urls = [f"http://127.0.0.1:{closed_port()}", backup.url]
    limits = httpx2.Limits(max_connections=6)
    with Driver(kind, urls, limits=limits) as driver, timed() as took:
        answers = driver.at_once(40, "/who")
    assert [answer.json()["server"] for answer in answers] == ["backup"] * 40
    assert took.seconds < 2 * SLACK


@pytest.mark.parametrize("slow_first", [True, False])
def test_who_only_lost_a_race_is_still_asked(fleet: Fleet, kind: str, slow_first: bool) -> None:
    """If the winner of a dial race fails, the request goes to the slower endpoint."""
    slow = fleet.add("slow", tls=("127.0.0.1",))
    with scripted({"winner": ("reset",)}) as ([winner], _):
        urls = [slow.url, winner.url] if slow_first else [winner.url, slow.url]
        with Driver(kind, urls, Policy(race_delay=0.0), verify=fleet.trust()) as driver:
            # Plain HTTP connects faster than TLS, so the winner does not depend on the order.
            assert driver.who() == "slow"


def test_a_look_up_that_hangs_blocks_nobody_and_is_made_once(backup: Backend, kind: str) -> None:
    """A hanging look-up costs one race delay, and concurrent requests share one look-up."""
    asked: list[str] = []
    answer = threading.Event()

    def look_up(host: str) -> list[str]:
        asked.append(host)
        answer.wait(30)
        return ["127.0.0.1"]

    urls = ["https://stuck.example", backup.url]
    with Driver(kind, urls, verify=backup.fleet.trust()) as driver:
        driver.manager._state.resolver = Resolver(look_up)
        with timed() as took:
            answers = driver.at_once(8, "/who")
        answer.set()
        assert [answer.json()["server"] for answer in answers] == ["backup"] * 8
    assert took.seconds < RACE + SLACK
    assert asked == ["stuck.example"]


def test_black_holes_do_not_outlast_the_total(kind: str) -> None:
    """No dial begins or continues after the total timeout of the request."""
    with black_hole() as port:
        urls = [f"http://127.0.0.1:{port}/{number}" for number in range(20)]
        policy = Policy(total_timeout=0.8, race_delay=0.1)
        with (
            Driver(kind, urls, policy) as driver,
            timed() as took,
            pytest.raises(NoEndpointAvailable) as caught,
        ):
            driver.get("/")
        assert 0.5 < took.seconds < 4
        assert {trial.fault for trial in caught.value.attempts} == {"connect-timeout"}


def test_a_refusing_endpoint_costs_nothing(backup: Backend, kind: str) -> None:
    """After a refused connection, the client dials the next endpoint without the race delay."""
    urls = [f"http://127.0.0.1:{closed_port()}", backup.url]
    policy = Policy(race_delay=10.0)
    with Driver(kind, urls, policy, verify=backup.fleet.trust()) as driver, timed() as took:
        assert driver.who() == "backup"
    assert took.seconds < 5


# -- endpoints that do not answer


def test_a_frozen_primary_is_overtaken_after_the_hedge_delay(
    primary: Backend, backup: Backend, kind: str
) -> None:
    """A GET to a frozen primary hedges after 1 s, and later requests go to the backup."""
    with Driver(kind, [primary.url, backup.url], verify=backup.fleet.trust()) as driver:
        assert driver.who() == "primary"
        primary.freeze()
        with timed() as first:
            assert driver.who() == "backup"
        assert 1.0 <= first.seconds < 1.0 + SLACK
        assert quickest(driver) < 0.5
        assert driver.state(primary.url) == "suspect"


def test_a_slow_answer_is_overtaken_and_the_slow_endpoint_left(
    primary: Backend, backup: Backend, kind: str
) -> None:
    """If the first byte takes 3 s, the backup answers the hedge after 1 s and serves from then."""
    primary.behave(delay=3.0)
    with Driver(kind, [primary.url, backup.url], verify=backup.fleet.trust()) as driver:
        with timed() as first:
            assert driver.who() == "backup"
        assert 1.0 <= first.seconds < 1.0 + SLACK
        assert quickest(driver) < 0.5


def test_the_first_answer_wins_even_if_it_is_the_slow_ones(fleet: Fleet, kind: str) -> None:
    """The first endpoint's answer wins if it arrives before the answer to the hedge."""
    primary, backup = fleet.pair()
    primary.behave(delay=0.8)
    backup.behave(delay=5.0)
    with Driver(kind, [primary.url, backup.url], Policy(hedge_delay=0.2)) as driver:
        with timed() as took:
            assert driver.who() == "primary"
        assert 0.8 <= took.seconds < 0.8 + SLACK
        assert driver.state(primary.url) == "healthy"


def test_a_slow_failure_waits_for_the_rivals_answer(fleet: Fleet, kind: str) -> None:
    """If the first endpoint answers 502 during a hedge, the client waits for the hedge."""
    primary, backup = fleet.pair()
    primary.behave(delay=0.6, status=502)
    backup.behave(delay=0.8)
    with Driver(kind, [primary.url, backup.url], Policy(hedge_delay=0.2)) as driver:
        assert driver.who() == "backup"
        assert driver.state(primary.url) == "suspect"


def test_a_rival_that_fails_is_forgotten(fleet: Fleet, kind: str) -> None:
    """If a hedge fails, the first endpoint's answer counts and the hedge's failure is recorded."""
    primary, backup = fleet.pair()
    primary.behave(delay=3.0)
    backup.behave(status=502)
    with Driver(kind, [primary.url, backup.url], Policy(hedge_delay=0.2)) as driver:
        assert driver.who() == "primary"
        assert driver.state(backup.url) == "suspect"


def test_a_busy_rival_is_not_taken_for_dead(fleet: Fleet, kind: str) -> None:
    """A hedge answered 503 with Retry-After does not make its endpoint suspect."""
    primary, backup = fleet.pair()
    primary.behave(delay=3.0)
    backup.behave(status=503, headers={"Retry-After": "60"})
    with Driver(kind, [primary.url, backup.url], Policy(hedge_delay=0.2)) as driver:
        assert driver.who() == "primary"
        assert driver.state(backup.url) == "healthy"


def test_a_slow_post_is_asked_once(fleet: Fleet, kind: str) -> None:
    """A slow POST is never hedged, so no second endpoint executes it."""
    primary, backup = fleet.pair()
    primary.behave(delay=0.8)
    with Driver(kind, [primary.url, backup.url], Policy(hedge_delay=0.1)) as driver:
        told = driver.request("POST", "/", headers={"X-Number": "7"}).json()
    assert told["server"] == "primary"
    assert (primary.posts(), backup.posts()) == (["7"], [])


def test_hedging_makes_one_thread_and_only_after_the_delay(fleet: Fleet) -> None:
    """A hedge takes one extra thread after the delay, which ends with the request."""
    primary, backup = fleet.pair()
    policy = Policy(hedge_delay=0.3)
    with Driver("sync", [backup.url, primary.url], policy) as driver:
        driver.who()  # opens a connection to the server that becomes the backup
        driver.manager.add_api_endpoint(backup.url, 9)
        primary.behave(delay=3.0)
        backup.behave(delay=30.0)
        before = threading.active_count()
        seen: list[tuple[float, int]] = []
        asking = threading.Event()

        def watch() -> None:
            began = time.perf_counter()
            while not asking.is_set():
                seen.append((time.perf_counter() - began, threading.active_count() - before))
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert driver.who() == "primary"
        asking.set()
        watcher.join()
        assert {count for seconds, count in seen if seconds < 0.25} == {1}
        assert max(count for _, count in seen) == 2
        wait_for(lambda: threading.active_count() == before, seconds=2, what="the rival ends")
        backup.behave()


def test_hedging_works_over_http2(fleet: Fleet, kind: str) -> None:
    """Requests that share one HTTP/2 connection hedge after the delay."""
    primary, backup = fleet.pair(tls=("127.0.0.1",), http2=True)
    policy = Policy(hedge_delay=1.0)
    options = {"verify": fleet.trust(), "http2": True}
    with Driver(kind, [primary.url, backup.url], policy, **options) as driver:
        assert driver.who("/calm") == "primary"
        primary.behave(delay=5.0)
        with timed() as took:
            answers = driver.at_once(6, "/who")
        assert {answer.json()["server"] for answer in answers} == {"backup"}
        assert 1.0 <= took.seconds < 1.0 + SLACK
        primary.behave()


# -- endpoints that answer with an error or garbage


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_sick_gateway_is_left_at_once(
    primary: Backend, backup: Backend, kind: str, status: int
) -> None:
    """After a 502, 503 or 504 a GET goes to the backup, and the endpoint is suspect."""
    primary.behave(status=status)
    with Driver(kind, [primary.url, backup.url], verify=backup.fleet.trust()) as driver:
        assert driver.who() == "backup"
        assert driver.state(primary.url) == "suspect"
        assert quickest(driver) < 0.5


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_asked(
    primary: Backend, backup: Backend, kind: str, status: int
) -> None:
    """An endpoint with Retry-After stays healthy and gets requests again after that time."""
    primary.behave(status=status, headers={"Retry-After": "1"})
    policy = Policy(min_dwell=0.0)
    with Driver(kind, [primary.url, backup.url], policy, verify=backup.fleet.trust()) as driver:
        began = time.perf_counter()
        assert driver.who() == "backup"
        assert driver.state(primary.url) == "healthy"
        primary.behave()
        wait_for(lambda: driver.who() == "primary", seconds=5, what="it is asked again")
        assert time.perf_counter() - began >= 1.0


def test_when_all_are_busy_somebody_is_asked_anyway(fleet: Fleet, kind: str) -> None:
    """If all endpoints are busy, the client sends the request to a busy endpoint."""
    primary, backup = fleet.pair()
    for backend in (primary, backup):
        backend.behave(status=503, headers={"Retry-After": "60"})
    with Driver(kind, [primary.url, backup.url]) as driver:
        assert driver.get("/").status_code == 503
        primary.behave()
        backup.behave()
        assert driver.get("/").status_code == 200


def test_application_errors_move_nobody(primary: Backend, backup: Backend, kind: str) -> None:
    """Statuses such as 404 and 500 are returned and leave the endpoint healthy."""
    with Driver(kind, [primary.url, backup.url], verify=backup.fleet.trust()) as driver:
        for status in (400, 401, 404, 409, 500, 501):
            primary.behave(status=status)
            answer = driver.get("/")
            assert (answer.status_code, answer.json()["server"]) == (status, "primary")
        assert driver.state(primary.url) == "healthy"


def test_what_is_no_http_is_a_failure(backup: Backend, kind: str) -> None:
    """If another protocol answers on the port, a GET moves on and a POST raises the error."""
    with (
        scripted({"first": ("garbage",)}) as ([first], _),
        Driver(kind, [first.url, backup.url], verify=backup.fleet.trust()) as driver,
    ):
        with pytest.raises(httpx2.RemoteProtocolError):
            driver.request("POST", "/", content=b"x")
        assert driver.state(first.url) == "suspect"
        assert driver.who() == "backup"


# -- endpoints that come and go


def test_a_killed_primary_is_left_and_taken_up_again(fleet: Fleet, kind: str) -> None:
    """The client leaves a killed primary at once and returns after two good probes."""
    primary, backup = fleet.pair()
    with Driver(kind, [primary.url, backup.url], Policy(min_dwell=0.0, hedge_delay=10.0)) as driver:
        assert driver.who() == "primary"
        primary.kill()
        with timed() as took:
            assert driver.who() == "backup"
        assert took.seconds < 5
        primary.start()
        _probe(driver, primary)
        _probe(driver, primary)
        wait_for(lambda: driver.who() == "primary", what="failback")


def _probe(driver: Driver, backend: Backend) -> None:
    """Record a good health check in the pool, as the manager's check loop would."""
    job = ("api", Endpoint(backend.url), None)
    driver.manager._lifecycle.tasks.record(job, ProbeResult(None, 0.01, "200", "/health"))


def test_a_flapping_primary_fails_no_request(fleet: Fleet, kind: str) -> None:
    """No request fails while the primary keeps going down and up under health checks."""
    primary, backup = fleet.pair()
    policy = Policy(min_dwell=0.0, first_backoff=0.1, max_backoff=0.2)
    with Driver(kind, [primary.url, backup.url], policy) as driver, driver.checking():
        for _ in range(2):
            primary.freeze()
            for _ in range(3):
                driver.who()
            primary.thaw()
            primary.kill()
            for _ in range(10):
                driver.who()
            primary.start()
            for _ in range(20):
                driver.who()


# -- more requests than connections


def test_requests_that_hang_at_one_endpoint_keep_nobody_from_the_next(
    fleet: Fleet, kind: str
) -> None:
    """The connection limit is per endpoint, so hanging requests do not block the backup."""
    primary, backup = fleet.pair()
    policy = Policy(hedge_delay=1.0)
    options = {"limits": httpx2.Limits(max_connections=4)}
    with Driver(kind, [primary.url, backup.url], policy, **options) as driver:
        assert driver.who() == "primary"
        primary.freeze()
        with timed() as took:
            results = driver.at_once(12, "/who")
        primary.thaw()
        assert [r for r in results if isinstance(r, Exception)] == []
        assert {result.json()["server"] for result in results} == {"backup"}
        assert took.seconds < 5
        assert driver.state(backup.url) == "healthy"


def test_a_body_that_stalls_costs_a_pause_not_the_request(fleet: Fleet, kind: str) -> None:
    """A GET whose body stalls for ``body_pause`` moves to the next endpoint."""
    backup = fleet.add("backup")
    with scripted({"stalls": ("pause",)}) as ([stalls], _):
        policy = Policy(body_pause=0.3)
        with Driver(kind, [stalls.url, backup.url], policy) as driver, timed() as took:
            assert driver.who() == "backup"
        assert took.seconds < 5


def test_a_body_that_breaks_off_after_a_hedge_was_called_off(kind: str) -> None:
    """If the winner's body breaks off, the request goes to the cancelled hedge's endpoint."""

    def late_and_torn(asked: Asked) -> Answer:
        time.sleep(0.4)
        return 200, {"Content-Length": "100"}, b"half"

    def later(asked: Asked) -> Answer:
        time.sleep(0.8)
        return OK

    with handmade(late_and_torn) as first, handmade(later) as second:
        urls = [first.url, second.url]
        with Driver(kind, urls, Policy(hedge_delay=0.1)) as driver:
            assert driver.get("/").text == "ok"
        assert (len(first.asked), len(second.asked)) == (1, 2)
