"""Managers for the tests, servers to watch, and ears for signals."""

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
    """The signals that are sent meanwhile, by name."""
    heard: list[tuple[str, dict[str, Any]]] = []
    with ExitStack() as stack:
        for signal in wanted:

            def receive(sender: Any, signal: NamedSignal = signal, **about: Any) -> None:
                heard.append((signal.name, about))

            stack.enter_context(signal.connected_to(receive))
        yield heard


def quiet(*api: Any, **options: Any) -> EndpointManager:
    """A manager that asks for no list by itself."""
    defaults = {"update_interval": 0, "policy": QUICK, "trust_env": False, "verify": NOBODY}
    return EndpointManager(list(api), **{**defaults, **options})


@pytest.fixture
def two() -> Iterator[tuple[Handmade, Handmade]]:
    """Two servers that are well."""
    with handmade() as first, handmade() as second:
        yield first, second


def status(code: int) -> Any:
    """A server that is alike to everybody."""
    return lambda asked: (code, {}, b"")
