"""Tests of the one iterator over the entries of the wire form, and of its readers."""

import json

import pytest

from mop_config import Endpoint, EndpointConfig
from mop_config.model.endpoint import (
    Difference,
    Kind,
    difference,
    dumps,
    iter_endpoints,
    loads,
    read_own,
)
from mop_config.server.monitor.schedule import best
from mop_config.server.web.dashboard.viewmodel import listing
from mop_config.server.web.views import targets_of

CONFIG = EndpointConfig(
    (Endpoint("https://a.example/v1"), Endpoint("https://b.example/v1", 1, "n.example")),
    (Endpoint("wss://c.example", 2),),
)
#: Members that a later version may add to an entry, each hard for a parser that cuts the text.
UNKNOWN = [
    {"region": "eu"},
    {"tags": ["a", "b"]},
    {"limits": {"rate": 5}},
    {"routes": [{"a": 1}, {"b": [2, {"c": 3}]}]},
    {"note": 'a},{"x":1}], "b": ['},
    {"note": '北京 \\ " ]}'},
]


def widened(unknown: dict[str, object], *, first: bool) -> bytes:
    """Write the list with the unknown member in every entry, before or after the known ones."""
    document = json.loads(dumps(CONFIG))
    for entries in document.values():
        entries[:] = [{**unknown, **e} if first else {**e, **unknown} for e in entries]
    return json.dumps(document, separators=(",", ":")).encode()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("unknown", UNKNOWN)
class TestUnknownMembers:
    """An entry with a member that this version does not know is read like any other."""

    def test_the_iterator_ignores_them(self, unknown: dict[str, object], first: bool) -> None:
        """The iterator yields every endpoint of each kind."""
        body = widened(unknown, first=first)
        assert {kind: tuple(iter_endpoints(body, kind)) for kind in Kind} == CONFIG.kinds()
        assert loads(body) == CONFIG

    def test_its_readers_ignore_them(self, unknown: dict[str, object], first: bool) -> None:
        """Differences, the whole list, checks, targets and the dashboard use the same list."""
        plain, body = dumps(CONFIG), widened(unknown, first=first)
        assert difference(plain, body) == Difference()
        assert read_own(body) == CONFIG
        assert best(body) == best(plain)
        assert targets_of(body) == targets_of(plain)
        assert listing(body, "", None).rows == listing(plain, "", None).rows
        assert listing(body, "b.ex", None).rows == listing(plain, "b.ex", None).rows


def test_an_empty_kind_gives_no_endpoint() -> None:
    """The iterator ends at once where the array is empty."""
    body = dumps(EndpointConfig())
    assert [list(iter_endpoints(body, kind)) for kind in Kind] == [[], []]


def test_a_kind_has_one_spelling_for_each_purpose() -> None:
    """The short name, the JSON member and the label are read from the enumeration."""
    assert [(kind.value, kind.member, kind.label) for kind in Kind] == [
        ("api", "api_endpoints", "API"),
        ("socketio", "socketio_endpoints", "Socket.io"),
    ]
