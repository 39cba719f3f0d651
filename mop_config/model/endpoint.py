"""``Endpoint``, ``EndpointConfig`` and ``Kind``: frozen values, validated when they are built."""

from dataclasses import dataclass
from enum import StrEnum

from ..errors import AddressError
from .address import is_ip, normalise_host, parse_url


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

    @property
    def host_name(self) -> str:
        """The name in the ``Host`` header and the certificate: the server name, else the host."""
        return self.server_name or parse_url(self.url).host

    @staticmethod
    def parse(url: str, priority: int = 0, server_name: str | None = None) -> "Endpoint":
        """Build an endpoint from any spelling of its URL and server name.

        Raises:
            AddressError: If an argument is invalid, with code ``bad-priority``,
                ``bad-server-name`` or one of ``parse_url``.
        """
        name = None if server_name is None else canonical_server_name(server_name)
        _check_priority(priority)
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


def _check_priority(priority: int) -> None:
    if type(priority) is not int or priority < 0:  # a bool is no priority
        raise AddressError("bad-priority", "the priority must be a whole number, 0 or more")
