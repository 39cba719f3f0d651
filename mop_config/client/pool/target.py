"""``Target``: the address of an endpoint, and the constant parts of its requests. Pure."""

from dataclasses import dataclass
from functools import lru_cache

from ...model.address import DEFAULT_PORTS, parse_url
from ...model.endpoint import Endpoint
from ...net.connect import Place


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of an endpoint's URL, in the forms that requests need.

    Attributes:
        host: Host to connect to; IPv6 in brackets.
        port: Port to connect to.
        tls_name: Name that the certificate must be for, or None without TLS.
        scheme: ``http`` or ``https``.
        prefix: Path of the URL without a final ``/``.
        authority: Value of the ``Host`` header.
        origin: Scheme and authority, for redirects.
        key: Key of the endpoint in a table of connections: two endpoints with the same host and
            port may need different certificates.
    """

    host: str
    port: int
    tls_name: str | None
    scheme: bytes
    prefix: bytes
    authority: bytes
    origin: str
    key: bytes

    @property
    def place(self) -> Place:
        """The server to connect to."""
        return Place(self.host, self.port, self.tls_name)


@lru_cache(maxsize=4096)
def target_of(endpoint: Endpoint) -> Target:
    """Return the target of an endpoint; a WebSocket scheme becomes the HTTP scheme."""
    url = parse_url(endpoint.url)
    secure = url.scheme in {"https", "wss"}
    name = endpoint.host_name
    port = url.port or DEFAULT_PORTS[url.scheme]
    authority = name if port == DEFAULT_PORTS[url.scheme] else f"{name}:{port}"
    scheme = "https" if secure else "http"
    return Target(
        host=url.host,
        port=port,
        tls_name=name.strip("[]") if secure else None,
        scheme=scheme.encode(),
        prefix=url.path.rstrip("/").encode(),
        authority=authority.encode(),
        origin=f"{scheme}://{authority}",
        key=f"{endpoint.url} {name}".encode(),
    )
