"""qr: the three forms of a QR code's text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mop_config import qr
from mop_config.errors import MopConfigError, PayloadError
from mop_config.model.endpoint import Endpoint, EndpointConfig

#: The guide's section 从二维码配置端点, form by form.
GUIDE_SINGLE = """{
  "api_url": "https://api.example.com",
  "socketio_url": "https://socket.example.com",
  "room_id": "room123"
}"""
GUIDE_LIST = """{
  "api_endpoints": [
    "https://api-primary.example.com",
    "https://api-backup1.example.com",
    "https://api-backup2.example.com"
  ],
  "socketio_endpoints": [
    "https://socket-primary.example.com",
    "https://socket-backup1.example.com"
  ],
  "room_id": "room123"
}"""
GUIDE_FULL = """{
  "api_endpoints": [
    {"url": "https://api-primary.example.com", "priority": 0},
    {"url": "https://api-backup1.example.com", "priority": 1},
    {"url": "https://api-backup2.example.com", "priority": 2}
  ],
  "socketio_endpoints": [
    {"url": "https://socket-primary.example.com", "priority": 0},
    {"url": "https://socket-backup1.example.com", "priority": 1}
  ],
  "room_id": "room123"
}"""
GUIDE_CONFIG = EndpointConfig(
    tuple(
        Endpoint(f"https://api-{name}.example.com", place)
        for place, name in enumerate(("primary", "backup1", "backup2"))
    ),
    tuple(
        Endpoint(f"https://socket-{name}.example.com", place)
        for place, name in enumerate(("primary", "backup1"))
    ),
)


class TestGuide:
    """The forms exactly as in the guide."""

    def test_the_single_form_is_read(self) -> None:
        """The single form gives one URL of each kind, with priority 0."""
        assert qr.parse(GUIDE_SINGLE) == qr.QrData(
            (Endpoint("https://api.example.com", 0),),
            (Endpoint("https://socket.example.com", 0),),
            "room123",
        )

    @pytest.mark.parametrize("text", [GUIDE_LIST, GUIDE_FULL])
    def test_the_list_and_the_full_form_are_read(self, text: str) -> None:
        """The list form and the full form give the same endpoints; a position is a priority."""
        data = qr.parse(text)
        assert EndpointConfig(data.api_endpoints or (), data.socketio_endpoints or ()) == (
            GUIDE_CONFIG
        )
        assert (data.room_id, data.extra) == ("room123", {})

    @pytest.mark.parametrize(("form", "text"), [("list", GUIDE_LIST), ("full", GUIDE_FULL)])
    def test_both_are_written(self, form: str, text: str) -> None:
        """``dumps`` writes the guide's list form and full form, without white space."""
        assert json.loads(qr.dumps(GUIDE_CONFIG, form, "room123")) == json.loads(text)

    def test_the_single_form_is_written(self) -> None:
        """``dumps`` writes the best endpoint of each kind in the single form."""
        assert json.loads(qr.dumps(GUIDE_CONFIG, "single", "room123")) == {
            "api_url": "https://api-primary.example.com",
            "socketio_url": "https://socket-primary.example.com",
            "room_id": "room123",
        }

    def test_full_is_what_is_written_unless_told_otherwise(self) -> None:
        """The default form is "full", which keeps every field."""
        assert qr.dumps(GUIDE_CONFIG) == qr.dumps(GUIDE_CONFIG, "full")


class TestReading:
    """Optional members and additional members."""

    def test_an_absent_kind_is_not_an_empty_one(self) -> None:
        """An absent kind is None and an empty array is (), so an absent kind stays unchanged."""
        data = qr.parse('{"api_endpoints": []}')
        assert (data.api_endpoints, data.socketio_endpoints) == ((), None)
        data = qr.parse('{"socketio_url": "wss://s.example"}')
        assert data.api_endpoints is None

    def test_unknown_members_are_kept(self) -> None:
        """Unknown members are kept in ``extra``."""
        text = '{"api_url": "https://a.example", "theme": {"dark": [true, null]}, "v": 2}'
        data = qr.parse(text)
        assert data.extra == {"theme": {"dark": [True, None]}, "v": 2}
        config = EndpointConfig(data.api_endpoints or ())
        again = qr.parse(qr.dumps(config, "single", data.room_id, data.extra))
        assert again == data

    def test_bytes_are_read_like_text(self) -> None:
        """Bytes are read like text, with or without a BOM."""
        assert qr.parse(GUIDE_FULL.encode()) == qr.parse(GUIDE_FULL)
        assert qr.parse(GUIDE_FULL.encode("utf-8-sig")) == qr.parse(GUIDE_FULL)

    def test_a_priority_and_a_server_name_are_read(self) -> None:
        """Priority and server name are read; the default priority is 0."""
        data = qr.parse(
            '{"api_endpoints": [{"url": "https://10.0.0.1", "priority": 7,'
            ' "server_name": "A.example"}, {"url": "https://b.example"}]}'
        )
        assert data.api_endpoints == (
            Endpoint("https://10.0.0.1", 7, "a.example"),
            Endpoint("https://b.example", 0),
        )

    def test_other_spellings_become_canonical(self) -> None:
        """URLs are stored in canonical form."""
        data = qr.parse('{"api_url": "HTTPS://API.Example.com"}')
        assert data.api_endpoints == (Endpoint("https://api.example.com"),)

    def test_of_two_entries_with_one_url_the_first_stays(self) -> None:
        """Of two entries with one URL the first counts, and its position is its priority."""
        data = qr.parse(
            '{"api_endpoints": ["https://a.example","https://b.example","https://a.example"]}'
        )
        assert data.api_endpoints == (
            Endpoint("https://a.example", 0),
            Endpoint("https://b.example", 1),
        )


WRONG: list[tuple[Any, str]] = [
    ("", "document"),
    ("https://a.example", "document"),
    ("{", "document"),
    ("[]", "document"),
    ("null", "document"),
    ('"text"', "document"),
    ("[" * 100_000, "document"),
    ("9" * 5000, "document"),
    (b"\xff\xfe\xfd", "document"),
    ({}, "document"),
    ({"room_id": "r"}, "document"),
    ({"api_url": None, "socketio_url": None}, "document"),
    ({"api_url": 7}, "api_url"),
    ({"api_url": ["https://a.example"]}, "api_url"),
    ({"api_url": "a.example"}, "api_url"),
    ({"api_url": "ftp://a.example"}, "api_url"),
    ({"socketio_url": "https://user:secret@a.example"}, "socketio_url"),
    ({"socketio_url": "https://a.example?x=1"}, "socketio_url"),
    ({"api_endpoints": "https://a.example"}, "api_endpoints"),
    ({"api_endpoints": {"url": "https://a.example"}}, "api_endpoints"),
    ({"api_endpoints": ["https://a.example", 3]}, "api_endpoints[1]"),
    ({"api_endpoints": ["https://a.example", None]}, "api_endpoints[1]"),
    ({"api_endpoints": ["https://a.example", "https://b c"]}, "api_endpoints[1]"),
    ({"api_endpoints": ["https://a.example:0"]}, "api_endpoints[0]"),
    ({"api_endpoints": [{"priority": 0}]}, "api_endpoints[0].url"),
    ({"api_endpoints": [{"url": 1}]}, "api_endpoints[0].url"),
    ({"api_endpoints": [{"url": "nonsense"}]}, "api_endpoints[0].url"),
    ({"api_endpoints": [{"url": "https://a.b", "priority": -1}]}, "api_endpoints[0].priority"),
    ({"api_endpoints": [{"url": "https://a.b", "priority": 1.5}]}, "api_endpoints[0].priority"),
    ({"api_endpoints": [{"url": "https://a.b", "priority": True}]}, "api_endpoints[0].priority"),
    ({"api_endpoints": [{"url": "https://a.b", "priority": "1"}]}, "api_endpoints[0].priority"),
    ({"api_endpoints": [{"url": "https://a.b", "priority": None}]}, "api_endpoints[0].priority"),
    ({"api_endpoints": [{"url": "https://a.b", "server_name": 1}]}, "api_endpoints[0].server_name"),
    (
        {"api_endpoints": [{"url": "https://a.b", "server_name": "1.2.3.4"}]},
        "api_endpoints[0].server_name",
    ),
    ({"socketio_endpoints": [["https://a.example"]]}, "socketio_endpoints[0]"),
    ({"api_url": "https://a.example", "room_id": 5}, "room_id"),
    ({"api_url": "https://a.example", "room_id": ""}, "room_id"),
    ({"api_url": "https://a.example", "room_id": "r" * 129}, "room_id"),
]


class TestErrors:
    """Every error is a PayloadError that names the invalid member."""

    @pytest.mark.parametrize(("document", "field"), WRONG)
    def test_the_field_is_named(self, document: Any, field: str) -> None:
        """The error names the invalid member and contains no password."""
        text = document if isinstance(document, (str, bytes)) else json.dumps(document)
        with pytest.raises(PayloadError) as error:
            qr.parse(text)
        assert error.value.field == field
        assert str(error.value).startswith(f"{field}: ")
        assert "secret" not in str(error.value)

    @given(
        st.text()
        | st.binary()
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.floats(),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "api_endpoints",
                            "socketio_endpoints",
                            "api_url",
                            "socketio_url",
                            "room_id",
                            "url",
                            "priority",
                            "server_name",
                            "x",
                        ]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(json.dumps)
    )
    def test_no_text_does_harm(self, text: str | bytes) -> None:
        """Any text is either read or refused with a PayloadError."""
        try:
            qr.parse(text)
        except MopConfigError as error:
            assert isinstance(error, PayloadError)
            assert error.field

    def test_an_unknown_form_is_not_written(self) -> None:
        """``dumps`` refuses an unknown form and an invalid room_id."""
        with pytest.raises(PayloadError, match="full, list, single"):
            qr.dumps(GUIDE_CONFIG, "best")
        for room_id in ("", "r" * 129):
            with pytest.raises(PayloadError, match="room_id"):
                qr.dumps(GUIDE_CONFIG, room_id=room_id)


HOSTS = st.integers(0, 99).map("h{}.example".format)
URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "wss"]),
    HOSTS | st.just("10.0.0.1") | st.just("[2001:db8::1]"),
    st.just("") | st.integers(1, 65535).map(":{}".format),
    st.sampled_from(["", "/", "/api/v1", "/a%20b"]),
)
ENDPOINTS = st.lists(
    st.builds(Endpoint, URLS, st.integers(0, 65535), st.none() | HOSTS),
    min_size=1,
    max_size=4,
    unique_by=lambda endpoint: endpoint.url,
).map(tuple)
CONFIGS = st.builds(EndpointConfig, ENDPOINTS, ENDPOINTS)
ROOMS = st.none() | st.text(min_size=1, max_size=128)
EXTRAS = st.dictionaries(st.sampled_from(["x", "主题", "v"]), st.integers() | st.text() | st.none())


class TestRoundTrip:
    """``parse`` reads back the output of ``dumps``."""

    @given(CONFIGS, ROOMS, EXTRAS)
    def test_full_loses_nothing(
        self, config: EndpointConfig, room: str | None, extra: dict[str, Any]
    ) -> None:
        """The full form keeps priorities, server names and additional members."""
        assert qr.parse(qr.dumps(config, "full", room, extra)) == qr.QrData(
            config.api_endpoints, config.socketio_endpoints, room, extra
        )

    @given(CONFIGS, ROOMS)
    def test_list_keeps_the_order_of_preference(
        self, config: EndpointConfig, room: str | None
    ) -> None:
        """The list form keeps the order of preference."""
        data = qr.parse(qr.dumps(config, "list", room))
        for got, sent in (
            (data.api_endpoints, config.api_endpoints),
            (data.socketio_endpoints, config.socketio_endpoints),
        ):
            assert got is not None
            best_first = [e.url for e in sorted(sent, key=lambda e: e.priority)]
            assert [(e.url, e.priority) for e in got] == list(
                zip(best_first, range(len(sent)), strict=True)
            )

    @settings(max_examples=30)
    @given(CONFIGS)
    def test_single_keeps_the_best(self, config: EndpointConfig) -> None:
        """The single form keeps the best endpoint of each kind."""
        data = qr.parse(qr.dumps(config, "single"))
        best = min(config.api_endpoints, key=lambda e: e.priority)
        assert data.api_endpoints == (Endpoint(best.url, 0),)

    @pytest.mark.parametrize("form", qr.QR_FORMATS)
    def test_an_empty_kind_is_left_out(self, form: str) -> None:
        """An empty kind is left out, so that reading the text leaves that kind unchanged."""
        config = EndpointConfig(GUIDE_CONFIG.api_endpoints)
        assert qr.parse(qr.dumps(config, form)).socketio_endpoints is None
