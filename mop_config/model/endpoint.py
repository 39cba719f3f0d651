"""The endpoints of a service: frozen values, valid once built."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypedDict

from ..errors import AddressError
from .address import is_canonical_url, is_ip, normalise_host, parse_url


class Kind(StrEnum):
    """The two kinds of endpoint; the value is the short name in routes, metrics and figures."""

    API = "api"
    SOCKETIO = "socketio"

    @property
    def member(self) -> str:
        """The JSON member that holds the endpoints of this kind, such as ``api_endpoints``."""
        return f"{self.value}_endpoints"

    @property
    def label(self) -> str:
        """The kind as people read it: ``API`` or ``Socket.io``."""
        return "API" if self is Kind.API else "Socket.io"


class Attributes(TypedDict, total=False):
    """The optional attributes of an endpoint, by their names in the endpoint file and in JSON."""

    server_name: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a service.

    Attributes:
        url: Absolute URL in canonical spelling, with scheme http, https, ws or wss.
        priority: 0 or more; the lower, the more preferred.
        server_name: The host name that an IP endpoint's certificate and virtual host
            answer to, or None.

    Raises:
        AddressError: If a field is not of that form. ``Endpoint.parse`` takes other
            spellings of a URL too.
    """

    url: str
    priority: int = 0
    server_name: str | None = None

    def __post_init__(self) -> None:
        if not is_canonical_url(self.url):
            parse_url(self.url)
            raise AddressError("bad-url", "the URL is not in its canonical spelling")
        if not is_priority(self.priority):
            raise AddressError("bad-priority", "the priority must be a whole number, 0 or more")
        if self.server_name is not None:
            check_server_name(self.server_name)

    @property
    def attributes(self) -> Attributes:
        """The optional attributes that the endpoint has."""
        return {} if self.server_name is None else {"server_name": self.server_name}

    @property
    def line(self) -> str:
        """The endpoint as commands print it: its URL, then each attribute as ``name=value``."""
        values = {"priority": self.priority, **self.attributes}
        return " ".join((self.url, *(f"{name}={value}" for name, value in values.items())))

    @property
    def host_name(self) -> str:
        """The name in the ``Host`` header and the certificate: the server name, else the host."""
        return self.server_name or parse_url(self.url).host

    @classmethod
    def parse(cls, url: str, priority: int = 0, server_name: str | None = None) -> "Endpoint":
        """Build an endpoint from any spelling of its URL and server name.

        Raises:
            AddressError: If the URL, the priority or the server name cannot be used.
        """
        name = None if server_name is None else normalise_host(server_name)
        return cls(parse_url(url).text, priority, name)


def assemble(url: str, priority: int, server_name: str | None = None) -> Endpoint:
    """Build an endpoint from parts that are canonical by construction, without a check.

    For the path from a file of 100,000 entries, where looking at each URL again would
    cost more than all the rest.
    """
    endpoint = object.__new__(Endpoint)
    # The dataclass is frozen, so its fields are set as its own constructor sets them.
    object.__setattr__(endpoint, "url", url)
    object.__setattr__(endpoint, "priority", priority)
    object.__setattr__(endpoint, "server_name", server_name)
    return endpoint


def check_server_name(name: str) -> None:
    """Hold a server name to its form: a host name in canonical spelling, no address.

    Raises:
        AddressError: With code ``bad-host``.
    """
    if normalise_host(name) != name or is_ip(name):
        raise AddressError("bad-host", "the server name must be a host name, not an IP address")


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """What a server hands out: the endpoints of each kind, in the order of the file.

    Attributes:
        api_endpoints: Where the API answers.
        socketio_endpoints: Where Socket.io answers.
    """

    api_endpoints: tuple[Endpoint, ...] = ()
    socketio_endpoints: tuple[Endpoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.api_endpoints or self.socketio_endpoints)

    def kinds(self) -> dict[Kind, tuple[Endpoint, ...]]:
        """Map each kind to its endpoints, in the order of the JSON members."""
        return {Kind.API: self.api_endpoints, Kind.SOCKETIO: self.socketio_endpoints}


def is_priority(value: Any) -> bool:
    """Whether a value read from outside may be a priority (a bool is none)."""
    return type(value) is int and value >= 0
