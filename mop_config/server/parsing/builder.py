"""Entries become endpoints: URLs, priorities, duplicates. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from ...model.address import identity
from ...model.endpoint import Endpoint, EndpointConfig, assemble
from .parser import EndpointFile, Entry, Section
from .problems import Code, Problems

#: A host and its own port in; the URL and its identity out.
Generate = Callable[[str, int | None], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class UrlRules:
    """How a host becomes the URL of an API and of a Socket.io endpoint.

    Attributes:
        protocol: ``http`` or ``https``.
        api_path: Empty, or a path with its leading ``/``.
        socket_path: Empty, or a path with its leading ``/``.
        default_port: Goes into each API URL, and into a Socket.io URL only while
            ``socket_path`` is empty.
        socket_port: Goes into each Socket.io URL, before ``default_port``.
    """

    protocol: str = "https"
    api_path: str = "/api/v1"
    socket_path: str = ""
    default_port: int | None = None
    socket_port: int | None = None

    def api(self, host: str, port: int | None) -> tuple[str, str]:
        """Give a host's API URL and its identity; the entry's own port wins."""
        return self._url(host, port or self.default_port, self.api_path)

    def socket(self, host: str, port: int | None) -> tuple[str, str]:
        """Give a host's Socket.io URL and its identity; the entry's own port wins."""
        fallback = None if self.socket_path else self.default_port
        return self._url(host, port or self.socket_port or fallback, self.socket_path)

    def _url(self, host: str, port: int | None, path: str) -> tuple[str, str]:
        if port is None:
            text = f"{self.protocol}://{host}{path}"
            return text, text if path else text + "/"
        text = f"{self.protocol}://{host}:{port}{path}"
        return text, identity(self.protocol, host, port, path)


class Built(NamedTuple):
    """The configuration of a file, and everything found wrong with the file."""

    config: EndpointConfig
    problems: Problems


def build(file: EndpointFile, rules: UrlRules) -> Built:
    """Turn a parsed file into the configuration that is served.

    Domains come first, then IP addresses, then each kind's own list; the position in
    that order is the priority of an entry that names none. An entry whose URL is there
    already is left out and takes no position.
    """
    problems = Problems()
    api = _Kind("API", rules.api, problems)
    socket = _Kind("Socket.io", rules.socket, problems)
    entries = file.entries
    for entry in chain(entries[Section.DOMAINS], entries[Section.IPS]):
        new = api.add(entry)
        socket.add(entry, quiet=not new)
    for entry in entries[Section.API]:
        api.add(entry)
    for entry in entries[Section.SOCKET]:
        socket.add(entry)
    api.check()
    socket.check()
    if rules.protocol == "http" and api.generated + socket.generated:
        message = "URLs are generated with plain http (ENDPOINT_PROTOCOL): use https"
        problems.add(Code.PLAIN_HTTP, 1, 1, message)
    problems.extend(file.problems)
    return Built(EndpointConfig(tuple(api.endpoints), tuple(socket.endpoints)), problems)


class _Kind:
    """Collects the endpoints of one kind, without duplicates."""

    def __init__(self, name: str, generate: Generate, problems: Problems) -> None:
        self.name = name
        self.generate = generate
        self.problems = problems
        self.endpoints: list[Endpoint] = []
        self.lines: dict[str, int] = {}  # identity of each URL -> the line it came from
        self.generated = 0

    def add(self, entry: Entry, *, quiet: bool = False) -> bool:
        """Take an entry in; say whether it was new. ``quiet``: it was told of already."""
        host, port, url, priority, attributes, line, column, shown = entry
        if url is None:
            text, key = self.generate(host, port)
            self.generated += 1
        else:
            text, key = url.text, url.identity
        first = self.lines.setdefault(key, line)
        position = len(self.endpoints)
        if len(self.lines) == position:
            if not quiet:
                message = f"a duplicate {self.name} endpoint: line {first} has it already"
                self.problems.add(Code.DUPLICATE, line, column, message, shown)
            return False
        rank = position if priority is None else priority
        endpoint = assemble(text, rank, **attributes) if attributes else assemble(text, rank)
        self.endpoints.append(endpoint)
        if url is not None and url.scheme in {"http", "ws"}:
            message = f"{url.scheme} is not encrypted: anyone on the way can read and change it"
            self.problems.add(Code.PLAIN_HTTP, line, column, message, shown)
        return True

    def check(self) -> None:
        """Judge the kind as a whole."""
        if len(self.endpoints) < 2:
            message = f"{self.name} endpoints: {len(self.endpoints)}; failover needs at least 2"
            self.problems.add(Code.FEW_ENDPOINTS, 1, 1, message)
