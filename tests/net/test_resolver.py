"""Name resolution: one look-up per host at a time, without blocking other callers."""

import asyncio
import os
import socket
import threading
from collections import Counter
from concurrent.futures import Future

import pytest

from mop_config.net.resolver import Resolver

from ..waiting import wait_for


class Names:
    """A fake system resolver that waits until the test lets it answer."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.go = threading.Event()
        self.answers: dict[str, list[str]] = {"a.example": ["10.0.0.1", "10.0.0.2"]}

    def __call__(self, host: str) -> list[str]:
        self.asked[host] += 1
        assert self.go.wait(10)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.answers[host]


@pytest.mark.parametrize(
    ("host", "address"),
    [("10.0.0.1", "10.0.0.1"), ("[2001:db8::1]", "2001:db8::1"), ("[::1]", "::1")],
)
def test_an_address_is_its_own_answer(host: str, address: str) -> None:
    """An IP address resolves at once and without a thread."""
    names = Names()
    future = Resolver(names).resolve(host)
    assert future.result(0) == [address]
    assert not names.asked


def test_whoever_asks_meanwhile_gets_the_same_answer() -> None:
    """Concurrent callers share one look-up, and a later caller starts a new one."""
    names = Names()
    resolver = Resolver(names)
    futures = [resolver.resolve("a.example") for _ in range(20)]
    assert not any(future.done() for future in futures)
    names.go.set()
    assert {tuple(future.result(10)) for future in futures} == {("10.0.0.1", "10.0.0.2")}
    assert names.asked["a.example"] == 1
    assert resolver.resolve("a.example").result(10) == ["10.0.0.1", "10.0.0.2"]
    assert names.asked["a.example"] == 2


def test_hosts_are_looked_up_beside_each_other() -> None:
    """A slow look-up of one host does not delay other hosts."""
    names = Names()
    resolver = Resolver(names)
    slow, other = resolver.resolve("a.example"), resolver.resolve("b.example")
    wait_for(lambda: len(names.asked) == 2, what="both are asked for")
    names.go.set()
    slow.result(10)
    assert isinstance(other.exception(10), socket.gaierror)


def test_a_failure_is_told_to_all_and_not_kept() -> None:
    """All waiting callers get a failure, and the next caller starts a new look-up."""
    names = Names()
    resolver = Resolver(names)
    futures = [resolver.resolve("b.example") for _ in range(3)]
    names.go.set()
    assert {type(future.exception(10)) for future in futures} == {socket.gaierror}
    names.answers["b.example"] = ["10.0.0.9"]
    assert resolver.resolve("b.example").result(10) == ["10.0.0.9"]


def test_one_who_gives_up_takes_it_from_nobody() -> None:
    """A cancelled task does not cancel the look-up for other callers."""
    names = Names()
    resolver = Resolver(names)

    async def give_up() -> None:
        waiting = asyncio.wrap_future(resolver.resolve("a.example"))
        waiting.cancel()
        await asyncio.sleep(0)
        assert waiting.cancelled()

    kept = resolver.resolve("a.example")
    asyncio.run(give_up())
    assert not kept.cancel()
    names.go.set()
    assert kept.result(10) == ["10.0.0.1", "10.0.0.2"]


def test_a_look_up_that_cannot_begin_blocks_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up whose thread could not start does not block later look-ups."""
    names = Names()
    names.go.set()
    resolver = Resolver(names)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            resolver.resolve("a.example").result(0)
    assert resolver.resolve("a.example").result(10)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_looks_up_for_itself() -> None:
    """After a fork the child starts its own look-up, as the parent's thread is missing there."""
    names = Names()
    resolver = Resolver(names)
    parents: Future[list[str]] = resolver.resolve("a.example")
    child = os.fork()
    if child == 0:
        # The inherited lock may be held by a thread that does not exist in this process.
        names.go = threading.Event()
        names.go.set()
        try:
            answered = resolver.resolve("a.example").result(5) == ["10.0.0.1", "10.0.0.2"]
        except BaseException:
            answered = False
        os._exit(0 if answered else 1)
    _, status = os.waitpid(child, 0)
    names.go.set()
    parents.result(10)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_system_is_asked_unless_told_otherwise() -> None:
    """By default the system resolves, and each address appears once, in the system's order."""
    addresses = Resolver().resolve("localhost").result(10)
    assert {"127.0.0.1", "::1"} & set(addresses)
    assert len(set(addresses)) == len(addresses)
