"""The connection options: the same options as those of httpx2's own transport.

A ``httpx2.Client`` with a custom transport ignores ``verify``, ``http2``, ``limits`` and the
environment's proxies, so our transport takes and applies these options itself.
"""

import importlib.util
import math
import ssl
import urllib.request
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from ...model.address import is_loopback
from ...net.connect import DialOptions, offering
from ...net.http import proxy_of
from ...net.streams import for_httpcore
from ..keywords import TransportKeywords
from ..pool.member import Target

#: The names of the options that go to a transport; all others go to the client.
NAMES = frozenset(TransportKeywords.__annotations__)

_DEFAULT_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)


class TransportOptions:
    """The validated options of connections.

    Args:
        verify: A context, the path of a file with certificate authorities, or True for
            the authorities of the system.
        cert: Client certificate, in httpx2's form.
        http1: Whether HTTP/1.1 is allowed.
        http2: Whether HTTP/2 is allowed; needs the package ``h2``.
        limits: Limits of the connection pool.
        proxy: A URL or ``httpx2.Proxy``.
        trust_env: Whether to use the environment's proxies and authorities.
        local_address: Address to connect from.
        socket_options: Arguments of ``setsockopt``.

    Raises:
        ValueError: If certificates would not be verified.
        ImportError: If ``http2`` is True and ``h2`` is not installed.

    Attributes:
        tls: Our own context, which verifies certificates like the given context.
        proxy: Proxy for every request, or None.
        environment: Proxies of the environment by scheme; empty if ``trust_env`` is False.
        knows_proxies: Whether any request may go through a proxy.
    """

    def __init__(
        self,
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
    ) -> None:
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
        self.tls = offering(tls, protocols)
        self.http1, self.http2, self.limits = http1, http2, limits
        self.proxy: httpx2.Proxy | None = (
            httpx2.Proxy(url=proxy) if isinstance(proxy, (str, httpx2.URL)) else proxy
        )
        self.environment = urllib.request.getproxies() if trust_env and proxy is None else {}
        self.knows_proxies = self.proxy is not None or bool(self.environment)
        self.local_address, self.socket_options = local_address, tuple(socket_options or ())

    def proxy_for(self, scheme: str, host: str) -> httpx2.Proxy | None:
        """Return the proxy for requests to a host, or None.

        Requests to this machine use no proxy, which would see a token that must stay local.
        """
        if not self.knows_proxies or is_loopback(host):
            return None
        if self.proxy is not None:
            return self.proxy
        return proxy_of(self.environment, scheme, host)

    def for_target(self, target: Target) -> httpx2.Proxy | None:
        """Return the proxy for requests to an endpoint, or None."""
        return self.proxy_for(target.scheme.decode(), target.host.strip("[]"))

    def takes_another_way(self, other: "TransportOptions", target: Target) -> bool:
        """Whether these options choose another proxy for an endpoint than ``other`` does."""
        if not (self.knows_proxies or other.knows_proxies):
            return False
        ours, theirs = self.for_target(target), other.for_target(target)
        return (ours and (ours.url, ours.raw_auth)) != (theirs and (theirs.url, theirs.raw_auth))

    def for_httpx(self, proxy: httpx2.Proxy | None) -> dict[str, Any]:
        """Return the arguments of httpx2's own transports."""
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
        """Return the options of a dial.

        Args:
            timeout: Seconds for the dial of one address; None counts as 0.
            until: Deadline of the dial in monotonic seconds.
        """
        return DialOptions(self.tls, timeout or 0.0, self.local_address, self.socket_options, until)

    def proxy_to(self, target: Target) -> httpcore2.Proxy | None:
        """Return the proxy for requests to an endpoint as httpcore's ``Proxy``, or None."""
        proxy = self.for_target(target)
        return None if proxy is None else for_httpcore(proxy)
