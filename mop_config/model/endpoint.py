"""``Endpoint``, ``EndpointConfig`` and ``Kind``: frozen values, their JSON, and differences.

The wire form of a list::

    {"api_endpoints": [{"url": "https://a.example/api/v1", "priority": 0}],
     "socketio_endpoints": [{"url": "https://a.example", "priority": 0}]}

An optional attribute, such as ``server_name``, is present only if the endpoint has the attribute.

A QR text has one of three forms. ``full`` is the wire form with an optional ``room_id``. In
``list`` the arrays hold URLs only, the best first. ``single`` has one ``api_url`` and one
``socketio_url``.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from ..errors import AddressError, PayloadError
from .address import is_ip, normalise_host, parse_url

#: The member of an entry that an error is about, by its code; else the URL.
_MEMBERS = {"bad-server-name": "server_name", "bad-priority": "priority"}
_decoder = json.JSONDecoder()
#: Upper bound of POSIX times that are read from outside: the end of the year 9999.
MAX_DATE = 253402300799
#: Limit of the URLs of each sort (added, removed, changed) that a difference names.
NAMED_URLS = 20


class Kind(StrEnum):
    """The two kinds of endpoint. The value is the name in the status, metrics and commands."""

    API = "api"
    SOCKETIO = "socketio"

    @property
    def member(self) -> str:
        """The JSON member that holds the endpoints of this kind, such as ``api_endpoints``."""
        return f"{self.value}_endpoints"

    @property
    def label(self) -> str:
        """The name of the kind in messages: ``API`` or ``Socket.io``."""
        return "API" if self is Kind.API else "Socket.io"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a service.

    Attributes:
        url: Absolute URL in canonical spelling, with scheme http, https, ws or wss.
        priority: 0 or more; a lower number is preferred.
        server_name: The host name in the certificate and the ``Host`` header of an IP address,
            or None for the host of the URL.

    Raises:
        AddressError: If a field is not in its canonical form. ``Endpoint.parse`` also accepts
            other spellings of the URL and the server name.
    """

    url: str
    priority: int = 0
    server_name: str | None = None

    def __post_init__(self) -> None:
        canonical = Endpoint.parse(self.url, self.priority, self.server_name)
        if canonical.url != self.url:
            raise AddressError("bad-url", "the URL is not in its canonical spelling")
        if canonical.server_name != self.server_name:
            raise AddressError("bad-server-name", "the server name is not in canonical spelling")

    @property
    def attributes(self) -> dict[str, str]:
        """The optional attributes that the endpoint has, by their names in the file and in JSON."""
        return {} if self.server_name is None else {"server_name": self.server_name}

    @property
    def line(self) -> str:
        """The endpoint as commands print it: its URL, then each attribute as ``name=value``."""
        values = {"priority": self.priority, **self.attributes}
        return " ".join((self.url, *(f"{name}={value}" for name, value in values.items())))

    @staticmethod
    def parse(url: str, priority: int = 0, server_name: str | None = None) -> "Endpoint":
        """Build an endpoint from any spelling of its URL and server name.

        Raises:
            AddressError: If an argument is invalid, with code ``bad-priority``,
                ``bad-server-name`` or one of ``parse_url``.
        """
        name = None if server_name is None else canonical_server_name(server_name)
        if type(priority) is not int or priority < 0:  # a bool is no priority
            raise AddressError("bad-priority", "the priority must be a whole number, 0 or more")
        return assemble(parse_url(url).text, priority, name)  # not validated a second time


def assemble(url: str, priority: int, server_name: str | None = None) -> Endpoint:
    """Build an endpoint without validation, from parts that are known to be canonical.

    Validating the URLs that the server has just generated would take longer than all other steps
    of a reload together.
    """
    endpoint = object.__new__(Endpoint)
    # The dataclass is frozen, so set the fields as its own constructor does.
    object.__setattr__(endpoint, "url", url)
    object.__setattr__(endpoint, "priority", priority)
    object.__setattr__(endpoint, "server_name", server_name)
    return endpoint


def canonical_server_name(text: str) -> str:
    """Return the canonical spelling of a server name, which is a host name.

    Raises:
        AddressError: With code ``bad-server-name``, also for an IP address.
    """
    try:
        name = normalise_host(text)
    except AddressError as error:
        raise AddressError("bad-server-name", error.message, error.value) from None
    if is_ip(name):
        message = "the server name must be a host name, not an IP address"
        raise AddressError("bad-server-name", message)
    return name


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """The endpoint list that a server serves: the endpoints of each kind, in file order.

    Attributes:
        api_endpoints: The endpoints of the API.
        socketio_endpoints: The endpoints of Socket.io.
    """

    api_endpoints: tuple[Endpoint, ...] = ()
    socketio_endpoints: tuple[Endpoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.api_endpoints or self.socketio_endpoints)

    def kinds(self) -> dict[Kind, tuple[Endpoint, ...]]:
        """Map each kind to its endpoints, in the order of the JSON members."""
        return {Kind.API: self.api_endpoints, Kind.SOCKETIO: self.socketio_endpoints}


def dumps(config: EndpointConfig) -> bytes:
    """Encode the wire form: compact, ASCII, and equal bytes for equal lists."""
    lists = (
        f'"{kind.member}":[{",".join(map(entry_text, endpoints))}]'
        for kind, endpoints in config.kinds().items()
    )
    return f"{{{','.join(lists)}}}".encode("ascii")


def entry_of(endpoint: Endpoint) -> dict[str, Any]:
    """Return the JSON object of an endpoint in the wire form."""
    return {"url": endpoint.url, "priority": endpoint.priority, **endpoint.attributes}


def entry_text(endpoint: Endpoint) -> str:
    """Return the JSON object of an endpoint in the wire form, as text.

    A canonical URL has no character that JSON escapes, so most entries are formatted directly:
    ``json.dumps`` takes four times as long.
    """
    if endpoint.attributes:
        return json.dumps(entry_of(endpoint), separators=(",", ":"))
    return f'{{"url":"{endpoint.url}","priority":{endpoint.priority}}}'


def loads(body: bytes | str, most: int | None = None) -> EndpointConfig:
    """Decode the wire form. Unknown members are ignored; one of the kinds may be missing.

    Args:
        body: The JSON document.
        most: Limit of the number of endpoints, or None for no limit.

    Raises:
        PayloadError: If the document is invalid; the error names the member.
    """
    return config_of(_object(body), most)


def config_of(document: dict[str, Any], most: int | None = None) -> EndpointConfig:
    """Build the list from the JSON object of the wire form.

    Args:
        document: The JSON object.
        most: Limit of the number of endpoints, or None for no limit.

    Raises:
        PayloadError: If the document is invalid; the error names the member.
    """
    _bound(document, most)
    if not any(kind.member in document for kind in Kind):
        raise PayloadError("document", f"must have {' or '.join(kind.member for kind in Kind)}")
    lists = (_endpoints(kind.member, document.get(kind.member, [])) for kind in Kind)
    return EndpointConfig(*lists)


def iter_endpoints(body: bytes, kind: Kind) -> Iterator[Endpoint]:
    """Iterate over the endpoints of one kind in a wire form that ``dumps`` has encoded.

    ``loads`` holds the global interpreter lock until the whole document is decoded; here, other
    threads can run between two endpoints. The URLs are not validated again, and unknown members
    of an entry are ignored.
    """
    text = body.decode()
    head = f'"{kind.member}":['
    position = text.index(head) + len(head)
    while text[position] != "]":
        entry, position = _decoder.raw_decode(text, position)
        yield assemble(entry["url"], entry["priority"], entry.get("server_name"))
        if text[position] == ",":
            position += 1


def read_own(body: bytes) -> EndpointConfig:
    """Decode a wire form that ``dumps`` has encoded, as ``iter_endpoints`` does."""
    return EndpointConfig(*(tuple(iter_endpoints(body, kind)) for kind in Kind))


def _bound(document: dict[str, Any], most: int | None) -> None:
    """Reject a document with too many entries before any entry is decoded."""
    entries = [document.get(kind.member) for kind in Kind]
    number = sum(len(each) for each in entries if isinstance(each, list))
    if most is not None and number > most:
        raise PayloadError("document", f"has {number} endpoints; at most {most} are allowed")


@dataclass(frozen=True, slots=True)
class QrData:
    """The decoded content of a QR text.

    Attributes:
        api_endpoints: The endpoints of the API, or None if the text has no member for them.
        socketio_endpoints: The endpoints of Socket.io, or None if the text has no member for them.
        room_id: The room that the app joins, or None.
        extra: All other members, unchanged.
    """

    api_endpoints: tuple[Endpoint, ...] | None = None
    socketio_endpoints: tuple[Endpoint, ...] | None = None
    room_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def kinds(self) -> dict[Kind, tuple[Endpoint, ...] | None]:
        """Map each kind to its endpoints, or to None if the text has no member for the kind."""
        return {Kind.API: self.api_endpoints, Kind.SOCKETIO: self.socketio_endpoints}


QR_FORMATS = ("full", "list", "single")
_SINGLE = {kind: f"{kind.value}_url" for kind in Kind}
MAX_ROOM_ID = 128


def loads_qr(text: str | bytes, most: int | None = None) -> QrData:
    """Decode a QR text of any of the three forms.

    Args:
        text: The content of the code.
        most: Limit of the number of endpoints, or None for no limit.

    Raises:
        PayloadError: If the text is invalid; the error names the member.
    """
    document = _object(text)
    _bound(document, most)
    api, socketio = (_qr_endpoints(kind, document) for kind in Kind)
    known = [*(kind.member for kind in Kind), *_SINGLE.values()]
    if api is None and socketio is None:
        raise PayloadError("document", f"must have one of {', '.join(known)}")
    room_id = document.get("room_id")
    check_room_id(room_id)
    ours = {*known, "room_id"}
    extra = {name: value for name, value in document.items() if name not in ours}
    return QrData(api, socketio, room_id, extra)


def check_room_id(room_id: Any) -> None:
    """Validate a room id, or None.

    Raises:
        PayloadError: If the room id is not a text of 1 to 128 characters that UTF-8 can encode.
    """
    if room_id is None:
        return
    if not isinstance(room_id, str) or not 1 <= len(room_id) <= MAX_ROOM_ID:
        raise PayloadError("room_id", f"must be a text of 1 to {MAX_ROOM_ID} characters")
    if any("\ud800" <= character <= "\udfff" for character in room_id):
        raise PayloadError("room_id", "must be text that has a UTF-8 form")


def _qr_endpoints(kind: Kind, document: dict[str, Any]) -> tuple[Endpoint, ...] | None:
    entries = document.get(kind.member)
    if entries is None:
        url = document.get(_SINGLE[kind])
        return None if url is None else (_parse(_SINGLE[kind], url, 0),)
    found: dict[str, Endpoint] = {}
    for endpoint in _endpoints(kind.member, entries, plain_urls=True):
        found.setdefault(endpoint.url, endpoint)  # of duplicates, the first is kept, as in the file
    return tuple(found.values())


def dumps_qr(
    config: EndpointConfig,
    format: str = "full",  # noqa: A002 - as in the route and on the command line
    room_id: str | None = None,
    extra: dict[str, Any] | None = None,
) -> str:
    """Encode a QR text; a kind without endpoints gets no member.

    The forms ``list`` and ``single`` hold URLs only. So an IP address whose certificate is for a
    ``server_name`` cannot be verified by an app that knows the address from these forms alone.

    Args:
        config: The endpoints.
        format: ``full``, ``list`` or ``single``.
        room_id: The room that the app joins, or None.
        extra: Further members, which are added unchanged.

    Raises:
        PayloadError: If the format is unknown, or the room id is empty or too long.
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


def _endpoints(member: str, entries: Any, *, plain_urls: bool = False) -> tuple[Endpoint, ...]:
    if not isinstance(entries, list):
        raise PayloadError(member, "must be an array")
    return tuple(
        _endpoint(f"{member}[{index}]", entry, index if plain_urls else None)
        for index, entry in enumerate(entries)
    )


def _endpoint(where: str, entry: Any, index: int | None) -> Endpoint:
    """Decode an entry, which may be a URL alone if it has an index; the index is its priority."""
    if index is not None and isinstance(entry, str):
        return _parse(where, entry, index)
    if not isinstance(entry, dict):
        raise PayloadError(where, "must be an object with 'url' and 'priority'")
    priority, name = entry.get("priority", 0), entry.get("server_name")
    if name is not None and not isinstance(name, str):
        raise PayloadError(f"{where}.server_name", "must be a string")
    return _parse(f"{where}.url", entry.get("url"), priority, name)


def _parse(where: str, url: Any, priority: int, server_name: str | None = None) -> Endpoint:
    if not isinstance(url, str):
        raise PayloadError(where, "must be a URL")
    try:
        return Endpoint.parse(url, priority, server_name)
    except AddressError as error:
        member = _MEMBERS.get(error.code)
        where = where if member is None else where.removesuffix("url") + member
        raise PayloadError(where, str(error)) from None


class Difference(NamedTuple):
    """The difference of two lists, over both kinds together.

    The counts are exact. Of each sort, only the first 20 URLs are named, so that the difference
    of two long lists stays small.

    Attributes:
        added: Number of URLs that only the newer list has, counted per kind.
        removed: Number of URLs that only the older list has.
        changed: Number of URLs in both lists whose attributes differ.
        added_urls: The first added URLs.
        removed_urls: The first removed URLs.
        changed_urls: The first changed URLs.
        changed_how: The changed attributes of each URL in ``changed_urls``, such as
            ``priority=0 → 5``.
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


class EndpointChange(NamedTuple):
    """The difference of one endpoint between two lists.

    Attributes:
        sign: ``-`` (removed), ``+`` (added) or ``~`` (changed priority or server name).
        kind: The kind of the endpoint.
        endpoint: The endpoint as it is now; a removed endpoint as it was.
        before: A changed endpoint as it was.
    """

    sign: str
    kind: Kind
    endpoint: Endpoint
    before: Endpoint | None = None


def endpoint_changes(
    kind: Kind, before: Iterable[Endpoint], after: Iterable[Endpoint]
) -> Iterator[EndpointChange]:
    """Compare the endpoints of a kind in two lists. Their order does not count."""
    old = {endpoint.url: endpoint for endpoint in before}
    new = {endpoint.url: endpoint for endpoint in after}
    for url, endpoint in old.items():
        if url not in new:
            yield EndpointChange("-", kind, endpoint)
    for url, endpoint in new.items():
        if url not in old:
            yield EndpointChange("+", kind, endpoint)
        elif old[url] != endpoint:
            yield EndpointChange("~", kind, endpoint, old[url])


def difference(old: bytes, new: bytes) -> Difference:
    """Compare two wire forms that ``dumps`` has encoded."""
    changes: dict[str, list[EndpointChange]] = {"+": [], "-": [], "~": []}
    for kind in Kind:
        lists = iter_endpoints(old, kind), iter_endpoints(new, kind)
        for change in endpoint_changes(kind, *lists):
            changes[change.sign].append(change)
    added, removed, changed = changes.values()
    urls = (tuple(c.endpoint.url for c in each[:NAMED_URLS]) for each in changes.values())
    found = Difference(len(added), len(removed), len(changed), *urls)
    return found._replace(changed_how=tuple(map(_how, changed[:NAMED_URLS])))


def _how(change: EndpointChange) -> str:
    """Name the attributes that differ, in the endpoint file's spelling; a dash means no value."""
    old, new = entry_of(change.before or change.endpoint), entry_of(change.endpoint)
    return ", ".join(
        f"{name}={old.get(name, '-')} → {new.get(name, '-')}"
        for name in old | new
        if old.get(name) != new.get(name)
    )


def rfc3339(posix: float) -> str:
    """Format a POSIX time as RFC 3339 in UTC, with milliseconds; at most ``MAX_DATE``."""
    moment = datetime.fromtimestamp(min(posix, MAX_DATE), UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"
