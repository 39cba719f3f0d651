"""The wire form of a configuration: ``EndpointConfig`` to JSON and back.

::

    {"api_endpoints": [{"url": "https://a.example/api/v1", "priority": 0}],
     "socketio_endpoints": [{"url": "https://a.example", "priority": 0}]}

``server_name`` stands in an entry only where the endpoint has one.
"""

import json
from typing import Any, NamedTuple

from .errors import AddressError, PayloadError
from .model import Endpoint, EndpointConfig, is_priority

KINDS = ("api_endpoints", "socketio_endpoints")
#: How many URLs of each sort a difference names.
NAMED_URLS = 20


def dumps(config: EndpointConfig) -> bytes:
    """Give the wire form: compact, ASCII, and equal for equal configurations.

    Written out by hand: a canonical URL holds nothing that JSON would escape, and
    ``json.dumps`` over 100,000 endpoints takes four times as long.
    """
    lists = (
        f'"{kind}":[{",".join(map(_entry, endpoints))}]'
        for kind, endpoints in config.kinds().items()
    )
    return f"{{{','.join(lists)}}}".encode("ascii")


def _entry(endpoint: Endpoint) -> str:
    url, priority, name = endpoint.url, endpoint.priority, endpoint.server_name
    if name is None:
        return f'{{"url":"{url}","priority":{priority}}}'
    return f'{{"url":"{url}","priority":{priority},"server_name":"{name}"}}'


def loads(body: bytes | str) -> EndpointConfig:
    """Read the wire form. Unknown members are passed over; an absent kind is empty.

    Raises:
        PayloadError: Naming the member that is at fault.
    """
    document = _object(body)
    lists = {kind: _endpoints(kind, document.get(kind, [])) for kind in KINDS}
    return EndpointConfig(**lists)


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


def _endpoint(field: str, entry: Any) -> Endpoint:
    if not isinstance(entry, dict):
        raise PayloadError(field, "must be an object with 'url' and 'priority'")
    url, priority, name = entry.get("url"), entry.get("priority", 0), entry.get("server_name")
    if not isinstance(url, str):
        raise PayloadError(f"{field}.url", "must be a string")
    if not is_priority(priority):
        raise PayloadError(f"{field}.priority", "must be a whole number, 0 or more")
    if name is not None and not isinstance(name, str):
        raise PayloadError(f"{field}.server_name", "must be a string")
    try:
        endpoint = Endpoint.parse(url, priority)
    except AddressError as error:
        raise PayloadError(f"{field}.url", str(error)) from None
    if name is None:
        return endpoint
    try:
        return Endpoint.parse(endpoint.url, priority, name)
    except AddressError as error:
        raise PayloadError(f"{field}.server_name", str(error)) from None


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
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    added_urls: tuple[str, ...] = ()
    removed_urls: tuple[str, ...] = ()
    changed_urls: tuple[str, ...] = ()

    def __str__(self) -> str:
        changed = f" ~{self.changed}" if self.changed else ""
        return f"+{self.added} −{self.removed}{changed} endpoints"


def difference(old: bytes, new: bytes) -> Difference:
    """Compare two wire forms that ``dumps`` made."""
    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []
    before, after = json.loads(old), json.loads(new)
    for kind in KINDS:
        was = {entry["url"]: entry for entry in before[kind]}
        now = {entry["url"]: entry for entry in after[kind]}
        added += [url for url in now if url not in was]
        removed += [url for url in was if url not in now]
        changed += [url for url, entry in now.items() if url in was and was[url] != entry]
    lists = (added, removed, changed)
    return Difference(
        len(added), len(removed), len(changed), *(tuple(urls[:NAMED_URLS]) for urls in lists)
    )
