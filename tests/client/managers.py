"""Managers, health-checked servers and signal recorders for the tests."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from blinker import NamedSignal

from mop_config.client import EndpointManager

from .handmade import (
    NOBODY,
    QUICK,
    Handmade,
    handmade,
)

A, B, C = (f"https://{name}.example/api/v1" for name in "abc")


@contextmanager
def hearing(*wanted: NamedSignal) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Record the name and arguments of each signal that is sent during the block."""
    heard: list[tuple[str, dict[str, Any]]] = []
    with ExitStack() as stack:
        for signal in wanted:

            def receive(sender: Any, signal: NamedSignal = signal, **about: Any) -> None:
                heard.append((signal.name, about))

            stack.enter_context(signal.connected_to(receive))
        yield heard


def quiet(*api: Any, **options: Any) -> EndpointManager:
    """Make a manager that never fetches an endpoint list on its own."""
    defaults = {"update_interval": 0, "policy": QUICK, "trust_env": False, "verify": NOBODY}
    return EndpointManager(list(api), **{**defaults, **options})


@pytest.fixture
def two() -> Iterator[tuple[Handmade, Handmade]]:
    """Run two healthy servers."""
    with handmade() as first, handmade() as second:
        yield first, second


def status(code: int) -> Any:
    """Make an answer function that gives every request the same status."""
    return lambda asked: (code, {}, b"")
