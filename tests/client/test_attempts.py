"""``manager.attempts()``: failover for requests, aiohttp and any other library."""

import asyncio
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx2
import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from mop_config.client import AsyncEndpointManager, EndpointManager, NoEndpointAvailable, Policy
from mop_config.net.faults import Fault

from ..ports import closed_port
from .fleet import black_hole
from .handmade import NOBODY, OK, Answer, handmade
from .managers import status
from .scripted import scripted


async def get_by_aiohttp(url: str) -> bytes:
    timeout = aiohttp.ClientTimeout(2)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, raise_for_status=True) as response,
    ):
        return await response.read()


#: Functions that send a GET and raise the errors of their library.
SENDERS: dict[str, Callable[[str], Any]] = {
    "requests": lambda url: requests.get(url, timeout=2),
    "httpx2": lambda url: httpx2.get(url, timeout=2, trust_env=False, verify=NOBODY),
    "urllib": lambda url: urllib.request.urlopen(url, timeout=2),
}
#: The same with aiohttp, which sends a GET once more by itself if the connection breaks.
ALL_SENDERS: dict[str, Callable[[str], Any]] = {
    **SENDERS,
    "aiohttp": lambda url: asyncio.run(get_by_aiohttp(url)),
}
SLOW = Policy(first_backoff=60.0, max_backoff=60.0)


@contextmanager
def manager_of(*urls: str, policy: Policy = SLOW) -> Iterator[EndpointManager]:
    """Make a manager that runs no health checks on its own."""
    manager = EndpointManager(
        urls, update_interval=0, policy=policy, trust_env=False, verify=NOBODY
    )
    manager.close()  # so that attempts() does not start the manager
    yield manager


def carry(manager: EndpointManager, act: Callable[[str], Any], *, idempotent: bool = True) -> None:
    """Send one request with the loop that the documentation shows."""
    for attempt in manager.attempts(idempotent=idempotent):
        with attempt as endpoint:
            act(endpoint)


def states(manager: EndpointManager) -> list[str]:
    return [endpoint.state for endpoint in manager.api_endpoints]


def hung_up() -> Answer:
    raise ConnectionError("the server dies before it answers")


@pytest.fixture
def deaf() -> Iterator[str]:
    """Run a server that reads requests and never answers."""
    with handmade(lambda asked: OK) as server:
        server.answer = lambda asked: (server.closing.wait(20), OK)[1]
        yield server.url


@pytest.mark.parametrize("library", SENDERS)
def test_a_refused_connection_moves_the_request_to_the_next_endpoint(library: str) -> None:
    dead = f"http://127.0.0.1:{closed_port()}/api"
    with handmade() as alive, manager_of(dead, f"{alive.url}/api/") as manager:
        for attempt in manager.attempts():
            with attempt as endpoint:
                SENDERS[library](f"{endpoint}/users")
        assert alive.paths == ["/api/users"]
        assert states(manager) == ["suspect", "healthy"]
        assert manager.api_endpoints[0].last_fault == "refused"
        assert manager.get_current_api_url() == f"{alive.url}/api"


@pytest.mark.parametrize("library", SENDERS)
def test_a_connection_that_breaks_moves_an_idempotent_request_only(library: str) -> None:
    with handmade(lambda asked: hung_up()) as broken, handmade() as alive:
        urls = (broken.url, alive.url)
        with manager_of(*urls) as manager:
            for attempt in manager.attempts(idempotent=True):
                with attempt as endpoint:
                    SENDERS[library](endpoint)
            assert (len(broken.asked), len(alive.asked)) == (1, 1)
            assert manager.api_endpoints[0].last_fault in {"reset", "protocol"}
        with manager_of(*urls) as manager:
            with pytest.raises(OSError if library != "httpx2" else httpx2.TransportError):
                carry(manager, SENDERS[library], idempotent=False)
            assert (len(broken.asked), len(alive.asked)) == (2, 1)
            assert states(manager) == ["suspect", "unknown"]


def test_a_time_out_counts_by_its_phase(deaf: str) -> None:
    with black_hole() as hole, handmade() as alive:
        with manager_of(f"http://127.0.0.1:{hole}", alive.url) as manager:
            for attempt in manager.attempts():
                with attempt as endpoint:
                    requests.get(endpoint, timeout=0.2)
            assert manager.api_endpoints[0].last_fault == "connect-timeout"
        with manager_of(deaf, alive.url) as manager:
            for attempt in manager.attempts(idempotent=True):
                with attempt as endpoint:
                    requests.get(endpoint, timeout=0.2)
            assert manager.api_endpoints[0].last_fault == "read-timeout"


def test_a_bad_status_ends_the_block_while_another_endpoint_is_left() -> None:
    with handmade(status(503)) as bad, handmade(status(502)) as worse:
        with manager_of(bad.url, worse.url) as manager:
            seen = []
            for attempt in manager.attempts(idempotent=True):
                with attempt as endpoint:
                    response = requests.get(endpoint, timeout=2)
                    attempt.status(response.status_code)
                    seen.append(response.status_code)  # the last answer is the application's
            assert seen == [502]
            assert states(manager) == ["suspect", "suspect"]
        with manager_of(bad.url, worse.url) as manager:
            for attempt in manager.attempts():  # a POST that a server may have executed
                with attempt as endpoint:
                    attempt.status(requests.post(endpoint, timeout=2).status_code)
            assert len(worse.asked) == 1
            assert states(manager) == ["suspect", "unknown"]


def get_or_raise(url: str) -> None:
    requests.get(url, timeout=2).raise_for_status()


def test_raise_for_status_counts_as_the_status() -> None:
    with handmade(status(503)) as bad, handmade(status(404)) as alive:
        with manager_of(bad.url, alive.url) as manager:
            with pytest.raises(requests.HTTPError, match="404"):
                carry(manager, get_or_raise)
            assert states(manager) == ["suspect", "healthy"]
        with manager_of(bad.url) as manager, pytest.raises(requests.HTTPError, match="503"):
            carry(manager, get_or_raise)


@pytest.mark.parametrize("library", ["requests", "urllib3"])
def test_a_status_that_the_library_has_repeated_in_vain_counts_as_the_status(library: str) -> None:
    """With ``Retry(status_forcelist=…)`` urllib3 raises an exception instead of a response."""
    retry = urllib3.Retry(1, status_forcelist=[500, 503])

    def get(endpoint: str) -> None:
        with requests.Session() as session, urllib3.PoolManager(retries=retry) as pool:
            session.mount("http://", HTTPAdapter(max_retries=retry))
            if library == "requests":
                session.get(endpoint, timeout=2)
            else:
                pool.request("GET", endpoint, timeout=2)

    with scripted({"bad": ("503",), "broken": ("500",), "good": ("200",)}) as (fleet, _):
        bad, broken, good = (endpoint.url for endpoint in fleet)
        with manager_of(bad, good) as manager:
            carry(manager, get)
            assert states(manager) == ["suspect", "healthy"]
        errors = (requests.RequestException, urllib3.exceptions.HTTPError)
        with manager_of(broken, good) as manager:
            with pytest.raises(errors, match="too many 500 error responses"):
                carry(manager, get)
            assert states(manager) == ["healthy", "unknown"]


@pytest.mark.parametrize("code", [None, "503", 0, 99, 1000, True])
def test_what_is_no_status_is_refused(code: Any) -> None:
    with manager_of("http://127.0.0.1:9") as manager:
        for attempt in manager.attempts(idempotent=True):
            with pytest.raises(ValueError, match="an HTTP status is a number from 100 to 999"):
                attempt.status(code)
            break
        assert states(manager) == ["unknown"]


def test_a_busy_endpoint_is_left_alone_for_a_while() -> None:
    with handmade() as first, handmade() as second:
        first.answer = lambda asked: (429, {"Retry-After": "30"}, b"")
        with manager_of(first.url, second.url) as manager:
            for attempt in manager.attempts(idempotent=True):
                with attempt as endpoint:
                    response = requests.get(endpoint, timeout=2)
                    attempt.status(response.status_code, response.headers.get("Retry-After"))
            assert states(manager) == ["healthy", "healthy"]
            assert manager.get_current_api_url() == second.url


def test_when_no_endpoint_is_left_the_error_names_each_attempt() -> None:
    urls = [f"http://127.0.0.1:{closed_port()}" for _ in range(3)]
    with manager_of(*urls) as manager, pytest.raises(NoEndpointAvailable) as caught:
        carry(manager, SENDERS["requests"], idempotent=False)
    assert [(a.url, a.fault) for a in caught.value.attempts] == [(u, Fault.REFUSED) for u in urls]
    assert isinstance(caught.value.__cause__, requests.ConnectionError)
    with manager_of() as manager, pytest.raises(NoEndpointAvailable, match="the list is empty"):
        next(iter(manager.attempts()))


def test_attempts_are_paid_from_the_budget() -> None:
    urls = [f"http://127.0.0.1:{closed_port()}" for _ in range(4)]
    policy = Policy(first_backoff=60.0, max_backoff=60.0, budget=5.0)
    with manager_of(*urls, policy=policy) as manager, pytest.raises(NoEndpointAvailable) as caught:
        carry(manager, SENDERS["requests"], idempotent=False)
    assert len(caught.value.attempts) == 3  # the first move is free, the budget pays one more
    assert manager.statistics()["budget_tokens"] == 0.0


@pytest.mark.parametrize("error", [KeyError("name"), FileNotFoundError(2, "missing"), ValueError()])
def test_an_error_of_the_application_leaves_the_loop_and_blames_nobody(error: Exception) -> None:
    with manager_of("http://127.0.0.1:1", "http://127.0.0.1:2") as manager:

        def fail(*, answered: bool) -> None:
            for attempt in manager.attempts(idempotent=True):
                with attempt:
                    if answered:
                        attempt.status(200)
                    raise error

        with pytest.raises(type(error)):
            fail(answered=False)
        assert states(manager) == ["unknown", "unknown"]
        with pytest.raises(type(error)):
            fail(answered=True)
        assert states(manager) == ["healthy", "unknown"]


def test_a_block_may_return_or_break() -> None:
    with handmade() as alive, manager_of(alive.url) as manager:

        def get() -> bytes:
            for attempt in manager.attempts():
                with attempt as endpoint:
                    return requests.get(endpoint, timeout=2).content
            raise AssertionError

        assert get() == b"ok"
        assert states(manager) == ["healthy"]


def test_an_attempt_without_its_with_statement_is_refused() -> None:
    attempts = iter(EndpointManager(["http://127.0.0.1:1"], verify=NOBODY).attempts())
    next(attempts)
    with pytest.raises(RuntimeError, match="with attempt as endpoint"):
        next(attempts)


def test_an_attempt_knows_its_name_for_tls_and_the_time_that_is_left() -> None:
    from mop_config import Endpoint

    named = Endpoint("https://192.0.2.1", 0, "api.example.com")
    manager = EndpointManager([named], verify=NOBODY, policy=Policy(total_timeout=9.0))
    manager.close()
    attempt = next(iter(manager.attempts()))
    assert attempt.server_name == "api.example.com"
    assert 8.0 < attempt.seconds_left <= 9.0


def test_attempts_start_a_manager_that_never_ran() -> None:
    with handmade() as alive:
        manager = EndpointManager([alive.url], verify=NOBODY, update_interval=0)
        try:
            manager.attempts()
            assert "running" in repr(manager)
        finally:
            manager.close()


# -- asyncio


def test_aiohttp_moves_to_the_next_endpoint(deaf: str) -> None:
    dead = f"http://127.0.0.1:{closed_port()}"

    async def main(*urls: str) -> list[str]:
        manager = AsyncEndpointManager(urls, verify=NOBODY, update_interval=0, policy=SLOW)
        await manager.close()
        timeout = aiohttp.ClientTimeout(sock_read=0.3)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async for attempt in manager.attempts(idempotent=True):
                with attempt as endpoint:
                    async with session.get(f"{endpoint}/users", raise_for_status=True) as response:
                        assert await response.read() == b"ok"
        return [str(e.last_fault or e.state) for e in manager.api_endpoints]

    with handmade() as alive, handmade(lambda asked: hung_up()) as broken:
        assert asyncio.run(main(dead, alive.url)) == ["refused", "healthy"]
        assert asyncio.run(main(broken.url, alive.url)) == ["reset", "healthy"]
        assert asyncio.run(main(deaf, alive.url)) == ["read-timeout", "healthy"]
        with handmade(status(503)) as bad:
            assert asyncio.run(main(bad.url, alive.url)) == ["bad-status", "healthy"]
        name = "http://no-such-name.invalid"
        assert asyncio.run(main(name, alive.url))[0] in {"no-such-host", "resolver"}


def test_a_cancelled_task_blames_nobody(deaf: str) -> None:
    async def get(manager: AsyncEndpointManager) -> None:
        async with asyncio.timeout(0.2), aiohttp.ClientSession() as session:
            async for attempt in manager.attempts(idempotent=True):
                with attempt as endpoint:
                    await session.get(endpoint)

    async def main() -> list[str]:
        manager = AsyncEndpointManager([deaf], verify=NOBODY, update_interval=0, policy=SLOW)
        await manager.close()
        with pytest.raises(TimeoutError):
            await get(manager)
        return [e.state for e in manager.api_endpoints]

    assert asyncio.run(main()) == ["unknown"]


def test_a_failure_after_the_answer_executes_nothing_twice() -> None:
    """Once a status is reported, a refused connection is one to another server."""
    with handmade() as first, handmade() as second, manager_of(first.url, second.url) as manager:

        def pay(then: Callable[[], object], *, idempotent: bool) -> None:
            for attempt in manager.attempts(idempotent=idempotent):
                with attempt as endpoint:
                    attempt.status(requests.post(f"{endpoint}/pay", timeout=2).status_code)
                    then()

        def refused() -> None:
            requests.get(f"http://127.0.0.1:{closed_port()}", timeout=2)

        def late() -> None:
            raise TimeoutError("the database")

        for idempotent in (False, True):
            with pytest.raises(requests.ConnectionError):
                pay(refused, idempotent=idempotent)
        assert (len(first.asked), len(second.asked)) == (2, 0)
        assert states(manager) == ["healthy", "unknown"]
        with pytest.raises(TimeoutError):
            pay(late, idempotent=False)
        assert (len(first.asked), len(second.asked)) == (3, 0)


def redirected(url: str) -> Callable[[Any], Answer]:
    return lambda asked: (307, {"Location": url}, b"")


@pytest.mark.parametrize("word", ["garbage", "half"])
@pytest.mark.parametrize("library", ALL_SENDERS)
def test_what_is_no_http_moves_the_request_to_the_next_endpoint(library: str, word: str) -> None:
    """A response that is no HTTP, or breaks off in the body, has the fault ``protocol``."""

    def get(endpoint: str) -> None:
        response = ALL_SENDERS[library](endpoint)
        if library == "urllib":
            response.read()

    with scripted({"a": (word,)}) as ([bad], _), handmade() as alive:
        with manager_of(bad.url, alive.url) as manager:
            carry(manager, get)
        assert alive.paths == ["/"]
        assert states(manager) == ["suspect", "healthy"]
        assert manager.api_endpoints[0].last_fault == "protocol"


@pytest.mark.parametrize("library", ["requests", "httpx2", "aiohttp"])
def test_a_redirect_to_what_is_no_http_blames_nobody(library: str) -> None:
    def get(endpoint: str) -> None:
        if library == "httpx2":
            httpx2.get(endpoint, follow_redirects=True, trust_env=False, verify=NOBODY)
        else:
            ALL_SENDERS[library](endpoint)

    errors = (requests.ConnectionError, httpx2.RemoteProtocolError, aiohttp.ClientResponseError)
    with (
        scripted({"elsewhere": ("garbage",)}) as ([elsewhere], _),
        handmade(redirected(elsewhere.url)) as first,
        handmade() as second,
        manager_of(first.url, second.url) as manager,
    ):
        with pytest.raises(errors):
            carry(manager, get)
        assert (len(first.asked), len(second.asked)) == (1, 0)
        assert states(manager) == ["unknown", "unknown"]


@pytest.mark.parametrize("library", ["requests", "httpx2", "aiohttp"])
def test_a_redirect_to_a_dead_server_blames_nobody(library: str) -> None:
    """The endpoint has answered, so that the request is not sent to another endpoint."""
    dead = redirected(f"http://127.0.0.1:{closed_port()}/x")

    async def by_aiohttp(endpoint: str) -> None:
        async with aiohttp.ClientSession() as session, session.post(endpoint):
            pass

    def post(endpoint: str) -> None:
        if library == "requests":
            requests.post(endpoint, timeout=2)
        elif library == "httpx2":
            httpx2.post(endpoint, follow_redirects=True, trust_env=False, verify=NOBODY)
        else:
            asyncio.run(by_aiohttp(endpoint))

    errors = (requests.ConnectionError, httpx2.ConnectError, aiohttp.ClientConnectorError)
    with (
        handmade(dead) as first,
        handmade(dead) as second,
        manager_of(first.url, second.url) as manager,
    ):
        with pytest.raises(errors):
            carry(manager, post, idempotent=False)
        assert (len(first.asked), len(second.asked)) == (1, 0)
        assert states(manager) == ["unknown", "unknown"]


def test_a_dead_proxy_blames_no_endpoint() -> None:
    proxy = {"http": f"http://127.0.0.1:{closed_port()}"}
    with manager_of("http://a.example", "http://b.example") as manager:
        with pytest.raises(NoEndpointAvailable) as caught:
            carry(manager, lambda url: requests.get(url, proxies=proxy, timeout=2))
        assert {a.fault for a in caught.value.attempts} == {Fault.PROXY}
        assert states(manager) == ["unknown", "unknown"]


class HTTPException(Exception):  # noqa: N818 - the name in werkzeug and other frameworks
    """An exception by which an application answers."""

    status = 503


def test_an_exception_of_a_framework_is_the_applications() -> None:
    """Its name and its status are not those of a response of the endpoint."""
    with handmade() as first, handmade() as second, manager_of(first.url, second.url) as manager:

        def act(endpoint: str) -> None:
            requests.get(endpoint, timeout=2)
            raise HTTPException

        with pytest.raises(HTTPException):
            carry(manager, act)
        assert (len(first.asked), len(second.asked)) == (1, 0)
        assert states(manager) == ["unknown", "unknown"]
