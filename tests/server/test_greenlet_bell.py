"""The bell that greenlets wait for: everybody hears it, and nothing is left behind."""

import gc
import os
import threading
import time
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest

from mop_config.server.serving import greenlet_event
from mop_config.server.serving.greenlet_event import GreenletChangeEvent


@pytest.fixture(autouse=True)
def _no_hub() -> Iterator[None]:
    """End gevent's loop, which is made on first use and holds descriptors."""
    yield
    gevent.get_hub().destroy(destroy_loop=True)


def test_everybody_hears_it_in_order_whoever_rings() -> None:
    """Also those who come when it has rung, and across the slices in which it tells."""
    bell = GreenletChangeEvent()
    told: list[int] = []

    def wait(number: int) -> None:
        assert bell.wait(60)
        told.append(number)
        time.sleep(greenlet_event.SLICE / 100)  # a blocking one: an answer takes its time

    greenlets = [gevent.spawn(wait, number) for number in range(250)]
    gevent.sleep(0.05)
    assert told == []
    began = time.monotonic()
    threading.Thread(target=bell.ring).start()
    gevent.joinall(greenlets, timeout=40, raise_error=True)
    assert told == list(range(250))
    assert time.monotonic() - began < 30
    assert bell.wait(60)
    assert time.monotonic() - began < 30


def test_others_have_their_turn_between_two_slices() -> None:
    """Whoever waits for something else is not held up by thousands who are told."""
    bell = GreenletChangeEvent()

    def wait() -> None:
        bell.wait(10)
        time.sleep(greenlet_event.SLICE / 10)

    greenlets = [gevent.spawn(wait) for _ in range(40)]
    reader, writer = gevent.socket.socketpair()
    with reader, writer:
        other = gevent.spawn(reader.recv, 1)
        gevent.sleep(0.05)
        bell.ring()
        writer.send(b"!")
        began = time.monotonic()
        other.join(10)
        assert time.monotonic() - began < 3 * greenlet_event.SLICE
        gevent.joinall(greenlets, timeout=20, raise_error=True)


def test_it_ends_with_the_time_and_with_the_client() -> None:
    """A client that sends its next request early is there; one that closes is not."""
    bell = GreenletChangeEvent()
    began = time.monotonic()
    assert bell.wait(0.1)
    assert 0.05 < time.monotonic() - began < 2
    ours, theirs = gevent.socket.socketpair()
    with ours:
        with theirs:
            theirs.send(b"GET")
            early = gevent.spawn(bell.wait, 0.3, ours)
            gevent.sleep(0.1)
            assert not early.ready()
            assert early.get(timeout=5) is True
            assert ours.recv(3) == b"GET"
            leaving = gevent.spawn(bell.wait, 10, ours)
            gevent.sleep(0.05)
        assert leaving.get(timeout=5) is False


def test_it_leaves_no_descriptor() -> None:
    """Neither where it has rung, nor where nobody waits for it any more."""
    gevent.sleep(0.01)  # its loop has descriptors of its own from now on
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for rings in (True, False) * 10:
        bell = GreenletChangeEvent()
        waiting = [gevent.spawn(bell.wait, 5 if rings else 0.01) for _ in range(3)]
        gevent.sleep(0)
        if rings:
            bell.ring()
        gevent.joinall(waiting, timeout=5, raise_error=True)
        del bell, waiting
        gevent.sleep(0)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
