"""Proxies in the form that httpcore takes, and the exception of a proxy that does not work."""

import httpcore2
import httpx2


class ProxyFailed(httpcore2.ProxyError):
    """The proxy cannot be reached; the server is not at fault."""


def for_httpcore(proxy: httpx2.Proxy) -> httpcore2.Proxy:
    """Return a proxy in the form that httpcore takes."""
    return httpcore2.Proxy(
        url=str(proxy.url),
        auth=proxy.raw_auth,
        headers=proxy.headers.raw,
        ssl_context=proxy.ssl_context,
    )
