"""How connections are made: the options that httpx2's own transport would take.

``httpx2.Client`` does not apply ``verify``, ``http2``, ``limits`` or proxies of the
environment once it is given a transport, so ours takes them and applies them itself.
"""

import importlib.util
import math
import ssl
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2

from ...model.address import is_loopback
from ...net.connect import DialOptions
from ...net.connection import for_httpcore
from ...net.http import proxy_of
from ...net.tls import offering
from ..pool.target import Target

#: The names of the options that go to a transport; all others go to the client.
NAMES = frozenset(
    {
        "cert",
        "http1",
        "http2",
        "limits",
        "local_address",
        "proxy",
        "socket_options",
        "trust_env",
        "verify",
    }
)

_DEFAULT_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """The options, checked.

    Attributes:
        tls: Context of ours that verifies certificates as the given one does.
        http1: Whether HTTP/1.1 may be spoken.
        http2: Whether HTTP/2 may be spoken.
        limits: Of the connection pool.
        proxy: Proxy for every request, or None.
        environment: Proxies of the environment by scheme, where those count.
        local_address: Address to connect from, or None.
        socket_options: Arguments of ``setsockopt``, one tuple each.
    """

    tls: ssl.SSLContext
    http1: bool
    http2: bool
    limits: httpx2.Limits
    proxy: httpx2.Proxy | None
    environment: dict[str, str]
    local_address: str | None
    socket_options: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        *,
        verify: ssl.SSLContext | str | bool = True,
        cert: Any = None,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = _DEFAULT_LIMITS,
        proxy: Any = None,
        trust_env: bool = True,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> "TransportOptions":
        """Check options, and build the TLS context.

        Args:
            verify: A context, the path of a file with certificate authorities, or True for
                those of the system.
            cert: Client certificate, as httpx2 takes it.
            http1: See above, as all others.
            http2: Needs the package ``h2``.
            limits: Of the connection pool.
            proxy: A URL or ``httpx2.Proxy``.
            trust_env: Whether the environment's proxies and authorities count.
            local_address: Address to connect from.
            socket_options: Arguments of ``setsockopt``.

        Raises:
            ValueError: If certificates would not be verified.
            ImportError: If HTTP/2 is wanted and cannot be spoken.
        """
        if http2 and importlib.util.find_spec("h2") is None:
            raise ImportError("HTTP/2 needs the package h2: pip install 'httpx2[http2]'")
        tls = httpx2.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
        if tls.verify_mode is ssl.CERT_NONE or not tls.check_hostname:
            raise ValueError(
                "certificate verification is never turned off: for an authority of your own"
                " pass verify=ssl.create_default_context(cafile=…), for an endpoint that goes"
                " by its IP give it a server_name"
            )
        protocols = (*(["h2"] if http2 else []), *(["http/1.1"] if http1 else []))
        return cls(
            offering(tls, protocols),
            http1,
            http2,
            limits,
            httpx2.Proxy(url=proxy) if isinstance(proxy, (str, httpx2.URL)) else proxy,
            urllib.request.getproxies() if trust_env and proxy is None else {},
            local_address,
            tuple(socket_options or ()),
        )

    @property
    def knows_proxies(self) -> bool:
        """Whether any request may take a proxy."""
        return self.proxy is not None or bool(self.environment)

    def proxy_for(self, scheme: str, host: str) -> httpx2.Proxy | None:
        """Say which proxy, if any, requests to a host take.

        None is asked for this machine itself: it would see a token that may not leave here.
        """
        if not self.knows_proxies or is_loopback(host):
            return None
        if self.proxy is not None:
            return self.proxy
        return proxy_of(self.environment, scheme, host)

    def for_target(self, target: Target) -> httpx2.Proxy | None:
        """Say which proxy, if any, requests to an endpoint take."""
        return self.proxy_for(target.scheme.decode(), target.host.strip("[]"))

    def takes_another_way(self, other: "TransportOptions", target: Target) -> bool:
        """Whether an endpoint is reached by another proxy, or by none, than with other options."""
        if not (self.knows_proxies or other.knows_proxies):
            return False
        ours, theirs = self.for_target(target), other.for_target(target)
        return (ours and (ours.url, ours.raw_auth)) != (theirs and (theirs.url, theirs.raw_auth))

    def for_httpx(self, proxy: httpx2.Proxy | None) -> dict[str, Any]:
        """Give the arguments of httpx2's own transports."""
        return {
            "verify": self.tls,
            "http1": self.http1,
            "http2": self.http2,
            "limits": self.limits,
            "proxy": proxy,
            "local_address": self.local_address if proxy is None else None,
            "socket_options": self.socket_options or None,
        }

    def for_dial(self, timeout: float | None, until: float = math.inf) -> DialOptions:
        """Say how to dial.

        Args:
            timeout: Seconds for a connection, as httpcore has it.
            until: When the time is over in any case, in monotonic seconds.
        """
        return DialOptions(self.tls, timeout or 0.0, self.local_address, self.socket_options, until)

    def proxy_to(self, target: Target) -> httpcore2.Proxy | None:
        """Return the proxy that requests to an endpoint take, as httpcore has it, or None."""
        proxy = self.for_target(target)
        return None if proxy is None else for_httpcore(proxy)
