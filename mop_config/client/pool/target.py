"""Where an endpoint is on the network, and what its requests must say. Pure."""

from dataclasses import dataclass
from functools import lru_cache

from ...model.address import DEFAULT_PORTS, parse_url
from ...model.endpoint import Endpoint
from ...net.connect import Place


@dataclass(frozen=True, slots=True)
class Target:
    """Everything about an endpoint that sending to it needs, ready-made.

    Attributes:
        host: Host to connect to; IPv6 in brackets.
        port: Port to connect to.
        tls_name: Name that its certificate must be for, or None without TLS.
        scheme: ``http`` or ``https``, as HTTP's wire needs it.
        prefix: Path of its URL without a final ``/``.
        authority: What the ``Host`` header must say.
        origin: Scheme and authority as a client sees them, for redirects.
        key: Names the endpoint in a pool of connections: two that share host and port may
            need different certificates.
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
        """Where to connect to."""
        return Place(self.host, self.port, self.tls_name)


@lru_cache(maxsize=4096)
def target_of(endpoint: Endpoint) -> Target:
    """Work out where an endpoint is; a WebSocket scheme stands for its HTTP one."""
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
