"""The connection options: the same options as those of httpx2's own transport.

A ``httpx2.Client`` with a custom transport ignores ``verify``, ``http2``, ``limits`` and the
environment's proxies, so our transport takes and applies these options itself.
"""

import contextlib
import importlib.util
import math
import os
import ssl
from collections.abc import Iterator
from typing import Any, Unpack

import httpx2

from ...model.address import is_loopback
from ...net.connect import DialOptions, ServerAddress, offering
from ...net.proxies import proxies_of_environment, proxy_at, proxy_of
from ..keywords import TransportKeywords

#: The names of the options that go to a transport; all others go to the client.
NAMES = frozenset(TransportKeywords.__annotations__)

_DEFAULT_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)


class TransportOptions:
    """The validated options of connections.

    Args:
        given: The options; see ``TransportKeywords``.

    Raises:
        ValueError: If certificates would not be verified, or if the proxy itself has TLS.
        ImportError: If ``h2`` for ``http2``, or ``socksio`` for a SOCKS proxy, is not installed.

    Attributes:
        tls: Our own context, which verifies certificates like the given context.
        proxy: Proxy for every request, or None.
        environment: Proxies of the environment by scheme; empty if ``trust_env`` is False.
        proxy_choice: The choice of proxies, for comparison with other options.
    """

    def __init__(self, **given: Unpack[TransportKeywords]) -> None:
        self._given = given
        self.http1, self.http2 = given.get("http1", True), given.get("http2", False)
        self.limits = given.get("limits", _DEFAULT_LIMITS)
        if not isinstance(self.limits, httpx2.Limits):
            raise TypeError(f"limits must be an httpx2.Limits, not {self.limits!r}")
        self.local_address = given.get("local_address")
        self.socket_options = tuple(given.get("socket_options") or ())
        trust_env, proxy = given.get("trust_env", True), given.get("proxy")
        if not isinstance(proxy, str | httpx2.URL | httpx2.Proxy | None):
            raise TypeError(f"proxy must be a URL or an httpx2.Proxy, not {proxy!r}")
        if self.http2 and importlib.util.find_spec("h2") is None:
            raise ImportError("HTTP/2 needs the package h2: pip install 'httpx2[http2]'")
        tls = _context_of(given.get("verify", True), given.get("cert"), trust_env=trust_env)
        if tls.verify_mode is ssl.CERT_NONE or not tls.check_hostname:
            raise ValueError(
                "certificate verification is never turned off: for an authority of your own"
                " pass verify=ssl.create_default_context(cafile=…), for an endpoint that goes"
                " by its IP give it a server_name"
            )
        protocols = {"h2": self.http2, "http/1.1": self.http1}
        self.tls = offering(tls, [name for name, is_offered in protocols.items() if is_offered])
        self.proxy = None if proxy is None else proxy_at(proxy)
        self.environment = proxies_of_environment() if trust_env and proxy is None else {}
        self.proxy_choice = self.proxy and (self.proxy.url, self.proxy.raw_auth), self.environment

    def proxy_for(self, scheme: str, host: str) -> httpx2.Proxy | None:
        """Return the proxy for requests to a host, or None.

        Requests to this machine use no proxy, which would see a token that must stay local.
        """
        if is_loopback(host):
            return None
        return self.proxy or proxy_of(self.environment, scheme, host)

    def for_server(self, server: ServerAddress) -> httpx2.Proxy | None:
        """Return the proxy for connections to a server, or None."""
        scheme = "http" if server.tls_name is None else "https"
        return self.proxy_for(scheme, server.host.strip("[]"))

    def for_httpx(self, proxy: httpx2.Proxy | None) -> dict[str, Any]:
        """Return the arguments of httpx2's own transports."""
        own = {"verify": self.tls, "cert": None, "proxy": proxy}
        address = {} if proxy is None else {"local_address": None}
        return {**self._given, **own, **address}

    def for_dial(
        self, timeout: float, until: float = math.inf, host_limit: float = math.inf
    ) -> DialOptions:
        """Return the options of a dial.

        Args:
            timeout: Seconds for the dial of one address.
            until: End of the dial, in monotonic seconds.
            host_limit: Seconds for the dial of one host with its look-up.
        """
        local = self.local_address, self.socket_options
        return DialOptions(self.tls, timeout, *local, until, self.for_server, host_limit)


def _context_of(verify: Any, cert: Any, *, trust_env: bool) -> ssl.SSLContext:
    """Return the context of ``verify`` and ``cert``, whose files httpx2 takes with a warning."""
    if isinstance(verify, str):
        with _naming(verify):
            where = "capath" if os.path.isdir(verify) else "cafile"
            verify = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, **{where: verify})
    elif isinstance(verify, bool):
        with _naming(f"SSL_CERT_FILE={os.environ.get('SSL_CERT_FILE')}"):
            verify = httpx2.create_ssl_context(verify=verify, trust_env=trust_env)
    if not isinstance(verify, ssl.SSLContext):
        raise TypeError(f"verify must be an ssl.SSLContext, a file or True, not {verify!r}")
    if cert:
        files = [cert] if isinstance(cert, str) else cert
        with _naming(" or ".join(map(str, files[:2]))):  # the third is a password
            verify.load_cert_chain(*files)
    return verify


@contextlib.contextmanager
def _naming(files: str) -> Iterator[None]:
    """Name the files in an exception of ``ssl``, which names none."""
    try:
        yield
    except OSError as error:
        error.strerror = f"{error.strerror}: {files}"
        raise
