"""The one codec: configurations and QR texts to JSON and back.

The wire form::

    {"api_endpoints": [{"url": "https://a.example/api/v1", "priority": 0}],
     "socketio_endpoints": [{"url": "https://a.example", "priority": 0}]}

``server_name`` stands in an entry only where the endpoint has one.

A QR text is one of three: ``full`` is the wire form with a ``room_id``; in ``list`` the
arrays hold URLs only, best first; ``single`` has one ``api_url`` and one ``socketio_url``.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..errors import AddressError, PayloadError
from .endpoint import Endpoint, EndpointConfig, Kind, assemble, is_priority

_decoder = json.JSONDecoder()
#: Upper bound of POSIX times that are read from outside: the end of the year 9999.
MAX_DATE = 253402300799
#: How many URLs of each sort a difference names.
NAMED_URLS = 20


def dumps(config: EndpointConfig) -> bytes:
    """Give the wire form: compact, ASCII, and equal for equal configurations.

    Written out by hand: a canonical URL holds nothing that JSON would escape, and
    ``json.dumps`` over 100,000 endpoints takes four times as long.
    """
    lists = (
        f'"{kind.member}":[{",".join(map(entry_text, endpoints))}]'
        for kind, endpoints in config.kinds().items()
    )
    return f"{{{','.join(lists)}}}".encode("ascii")


def entry_of(endpoint: Endpoint) -> dict[str, Any]:
    """Return the JSON object of an endpoint, as it stands in the wire form."""
    return {"url": endpoint.url, "priority": endpoint.priority, **endpoint.attributes}


def entry_text(endpoint: Endpoint) -> str:
    """Return the same object as text: compact, and for most endpoints without ``json``."""
    if endpoint.attributes:
        return json.dumps(entry_of(endpoint), separators=(",", ":"))
    return f'{{"url":"{endpoint.url}","priority":{endpoint.priority}}}'


def loads(body: bytes | str, most: int | None = None) -> EndpointConfig:
    """Read the wire form. Unknown members are passed over; an absent kind is empty.

    Args:
        body: The document.
        most: How many endpoints it may have, or None for any number.

    Raises:
        PayloadError: Naming the member that is at fault.
    """
    return config_of(_object(body), most)


def config_of(document: dict[str, Any], most: int | None = None) -> EndpointConfig:
    """Read the wire form where its JSON has been read already.

    Args:
        document: The JSON object.
        most: How many endpoints it may have, or None for any number.

    Raises:
        PayloadError: Naming the member that is at fault.
    """
    _bound(document, most)
    lists = (_endpoints(kind.member, document.get(kind.member, [])) for kind in Kind)
    return EndpointConfig(*lists)


def iter_endpoints(body: bytes, kind: Kind) -> Iterator[Endpoint]:
    """Read the endpoints of one kind from a wire form that ``dumps`` made, one after the other.

    ``loads`` would hold the interpreter's lock for as long as 100,000 endpoints take; here
    other threads run between two endpoints. The URLs are not checked again. Unknown members
    of an entry are ignored, whatever their values are.
    """
    text = body.decode()
    head = f'"{kind.member}":['
    position = text.index(head) + len(head)
    while text[position] != "]":
        entry, position = _decoder.raw_decode(text, position)
        yield assemble(entry["url"], entry["priority"], entry.get("server_name"))
        if text[position] == ",":
            position += 1


def _bound(document: dict[str, Any], most: int | None) -> None:
    """Refuse a document with too many entries, before any of them is read."""
    entries = [document.get(kind.member) for kind in Kind]
    number = sum(len(each) for each in entries if isinstance(each, list))
    if most is not None and number > most:
        raise PayloadError("document", f"has {number} endpoints, and at most {most} are taken")


@dataclass(frozen=True, slots=True)
class QrData:
    """What a QR text says.

    Attributes:
        api_endpoints: Where the API answers, or None where the text does not speak of it.
        socketio_endpoints: Where Socket.io answers, or None likewise.
        room_id: The room to join, or None.
        extra: Members that are not ours, as they stand.
    """

    api_endpoints: tuple[Endpoint, ...] | None = None
    socketio_endpoints: tuple[Endpoint, ...] | None = None
    room_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def kinds(self) -> dict[Kind, tuple[Endpoint, ...] | None]:
        """Map each kind to its endpoints, or to None where the text does not name the kind."""
        return {Kind.API: self.api_endpoints, Kind.SOCKETIO: self.socketio_endpoints}


QR_FORMATS = ("full", "list", "single")
_SINGLE = {kind: f"{kind.value}_url" for kind in Kind}
MAX_ROOM_ID = 128


def loads_qr(text: str | bytes, most: int | None = None) -> QrData:
    """Read a QR text of any of the three forms.

    Args:
        text: What a code says.
        most: How many endpoints it may have, or None for any number.

    Raises:
        PayloadError: Naming the member that is at fault.
    """
    document = _object(text)
    _bound(document, most)
    api, socketio = (_qr_endpoints(kind, document) for kind in Kind)
    known = [*(kind.member for kind in Kind), *_SINGLE.values()]
    if api is None and socketio is None:
        names = ", ".join(known)
        raise PayloadError("document", f"must have one of {names}")
    room_id = document.get("room_id")
    if room_id is not None:
        check_room_id(room_id)
    ours = {*known, "room_id"}
    extra = {name: value for name, value in document.items() if name not in ours}
    return QrData(api, socketio, room_id, extra)


def check_room_id(room_id: Any) -> None:
    """Hold a room id to its form.

    Raises:
        PayloadError: Unless it is a text of 1 to 128 characters.
    """
    if not isinstance(room_id, str) or not 1 <= len(room_id) <= MAX_ROOM_ID:
        raise PayloadError("room_id", f"must be a text of 1 to {MAX_ROOM_ID} characters")


def _qr_endpoints(kind: Kind, document: dict[str, Any]) -> tuple[Endpoint, ...] | None:
    entries = document.get(kind.member)
    if entries is None:
        url = document.get(_SINGLE[kind])
        return None if url is None else (_endpoint_of_url(_SINGLE[kind], url, 0),)
    if not isinstance(entries, list):
        raise PayloadError(kind.member, "must be an array")
    found: dict[str, Endpoint] = {}
    for index, entry in enumerate(entries):
        where = f"{kind.member}[{index}]"
        by_url = isinstance(entry, str)
        endpoint = _endpoint_of_url(where, entry, index) if by_url else _endpoint(where, entry)
        found.setdefault(endpoint.url, endpoint)  # as in the file: the first one stays
    return tuple(found.values())


def _endpoint_of_url(where: str, url: Any, priority: int) -> Endpoint:
    if not isinstance(url, str):
        raise PayloadError(where, "must be a URL")
    try:
        return Endpoint.parse(url, priority)
    except AddressError as error:
        raise PayloadError(where, str(error)) from None


def dumps_qr(
    config: EndpointConfig,
    format: str = "full",  # noqa: A002 - as in the route and on the command line
    room_id: str | None = None,
    extra: dict[str, Any] | None = None,
) -> str:
    """Write a QR text; a kind without endpoints is left out.

    Args:
        config: The endpoints.
        format: ``full``, ``list`` or ``single``.
        room_id: The room to join, or None.
        extra: More members, as they stand.

    Raises:
        PayloadError: If the format is unknown or the room id too long.
    """
    if format not in QR_FORMATS:
        raise PayloadError("format", f"must be one of {', '.join(QR_FORMATS)}")
    document: dict[str, Any] = dict(extra or {})
    for kind, endpoints in config.kinds().items():
        best_first = sorted(endpoints, key=lambda endpoint: endpoint.priority)
        if not best_first:
            continue
        if format == "single":
            document[_SINGLE[kind]] = best_first[0].url
        elif format == "list":
            document[kind.member] = [endpoint.url for endpoint in best_first]
        else:
            document[kind.member] = [entry_of(endpoint) for endpoint in endpoints]
    if room_id is not None:
        check_room_id(room_id)
        document["room_id"] = room_id
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _object(body: bytes | str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PayloadError("document", f"not JSON ({error})") from None
    if not isinstance(document, dict):
        raise PayloadError("document", "must be a JSON object")
    return document


def _endpoints(kind: str, entries: Any) -> tuple[Endpoint, ...]:
    if not isinstance(entries, list):
        raise PayloadError(kind, "must be an array")
    return tuple(_endpoint(f"{kind}[{i}]", entry) for i, entry in enumerate(entries))


def _endpoint(where: str, entry: Any) -> Endpoint:
    if not isinstance(entry, dict):
        raise PayloadError(where, "must be an object with 'url' and 'priority'")
    url, priority, name = entry.get("url"), entry.get("priority", 0), entry.get("server_name")
    if not isinstance(url, str):
        raise PayloadError(f"{where}.url", "must be a string")
    if not is_priority(priority):
        raise PayloadError(f"{where}.priority", "must be a whole number, 0 or more")
    if name is not None and not isinstance(name, str):
        raise PayloadError(f"{where}.server_name", "must be a string")
    try:
        endpoint = Endpoint.parse(url, priority)
    except AddressError as error:
        raise PayloadError(f"{where}.url", str(error)) from None
    if name is None:
        return endpoint
    try:
        return Endpoint.parse(endpoint.url, priority, name)
    except AddressError as error:
        raise PayloadError(f"{where}.server_name", str(error)) from None


class Difference(NamedTuple):
    """How one wire form differs from another, over both kinds together.

    The counts are exact; of the URLs the first twenty are named, so that a difference of
    100,000 stays small.

    Attributes:
        added: How many URLs only the newer one has, counting each kind.
        removed: How many only the older one had.
        changed: How many both have, with another priority or server name.
        added_urls: The first of the added.
        removed_urls: The first of the removed.
        changed_urls: The first of the changed.
        changed_how: What changed at each of these, such as ``priority=0 → 5``.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    added_urls: tuple[str, ...] = ()
    removed_urls: tuple[str, ...] = ()
    changed_urls: tuple[str, ...] = ()
    changed_how: tuple[str, ...] = ()

    def __str__(self) -> str:
        changed = f" ~{self.changed}" if self.changed else ""
        return f"+{self.added} -{self.removed}{changed} endpoints"


def difference(old: bytes, new: bytes) -> Difference:
    """Compare two wire forms that ``dumps`` made."""
    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []
    how: list[str] = []
    for kind in Kind:
        was = {endpoint.url: endpoint for endpoint in iter_endpoints(old, kind)}
        now = {endpoint.url: endpoint for endpoint in iter_endpoints(new, kind)}
        added += [url for url in now if url not in was]
        removed += [url for url in was if url not in now]
        moved = [url for url, endpoint in now.items() if url in was and was[url] != endpoint]
        changed += moved
        how += [_how(was[url], now[url]) for url in moved[: NAMED_URLS - len(how)]]
    lists = (added, removed, changed, how)
    return Difference(
        len(added), len(removed), len(changed), *(tuple(urls[:NAMED_URLS]) for urls in lists)
    )


def _how(was: Endpoint, now: Endpoint) -> str:
    """Name the attributes that differ, as the endpoint file writes them; a dash means none."""
    old, new = entry_of(was), entry_of(now)
    return ", ".join(
        f"{name}={old.get(name, '-')} → {new.get(name, '-')}"
        for name in old | new
        if old.get(name) != new.get(name)
    )


def rfc3339(posix: float) -> str:
    """Write a POSIX time as RFC 3339 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(posix, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
