"""Validate built-in and external endpoint lists, and make their URLs canonical. Pure."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ...errors import AddressError, PayloadError
from ...model.address import DEFAULT_PORTS, is_ip, parse_url
from ...model.endpoint import Endpoint, EndpointConfig
from ..keywords import Several

logger = logging.getLogger(__name__)

#: The types of a built-in list.
Bootstrap = EndpointConfig | Several[str | Endpoint | tuple[str, int]]
#: Limit of the endpoints that a log line names.
_NAMED = 5
_HTTP_ONLY = "an API endpoint needs an http or https URL"


def config_of(api: Bootstrap, sockets: Bootstrap) -> EndpointConfig:
    """Read the built-in endpoints of both kinds.

    Raises:
        AddressError: If a URL or a priority cannot be used.
        TypeError: If an argument has another type.
    """
    if isinstance(sockets, EndpointConfig) or (isinstance(api, EndpointConfig) and tuple(sockets)):
        raise TypeError("an EndpointConfig has both kinds: give it first, and alone")
    if not isinstance(api, EndpointConfig):
        kinds = (_endpoints("api_endpoints", api), _endpoints("socket_endpoints", sockets))
        api = EndpointConfig(*map(tuple, kinds))
    for index, endpoint in enumerate(api.api_endpoints):
        check_api(endpoint, f"api_endpoints[{index}]: ")
    return EndpointConfig(*map(canonical, api.kinds().values()))


def _endpoints(name: str, seed: Any) -> Iterable[Endpoint]:
    if isinstance(seed, (str, bytes)):
        raise TypeError(f"{name} must be a list of URLs, not one: [{seed!r}]")
    if not isinstance(seed, Iterable):
        raise TypeError(f"{name} must be a list of URLs, not {seed!r}")
    for position, entry in enumerate(seed):
        where = f"{name}[{position}]"
        if isinstance(entry, Endpoint):
            yield entry
            continue
        url, priority = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, position)
        if not isinstance(url, str):
            forms = "a URL, a pair of URL and priority, or an Endpoint"
            raise TypeError(f"{where} must be {forms}, not {entry!r}")
        try:
            yield Endpoint.parse(url, priority)
        except AddressError as error:
            raise AddressError(error.code, f"{where}: {error}") from None


def _is_http(endpoint: Endpoint) -> bool:
    return endpoint.url.startswith(("http://", "https://"))


def check_api(endpoint: Endpoint, where: str = "") -> None:
    """Check that the scheme of an API endpoint is http or https.

    Raises:
        AddressError: If the endpoint has another scheme; the message begins with ``where``.
    """
    if not _is_http(endpoint):
        raise AddressError("bad-scheme", f"{where}{_HTTP_ONLY}")


def canonical_url(url: str) -> str:
    """Return the canonical URL of an endpoint: no default port, no final slash.

    Raises:
        AddressError: If the text is not a URL of an endpoint.
    """
    if not isinstance(url, str):
        raise TypeError(f"an endpoint's URL must be a text, not {url!r}")
    parsed = parse_url(url)
    port = "" if parsed.port in {None, DEFAULT_PORTS[parsed.scheme]} else f":{parsed.port}"
    return f"{parsed.scheme}://{parsed.host}{port}{parsed.path.rstrip('/')}"


def without_query(url: str) -> str:
    """Return a URL without its query, for logs and files: a signed query is a credential."""
    address, mark, _ = url.partition("?")
    return address + "?…" if mark else address


def canonical(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return endpoints with canonical URLs; of two endpoints with one URL the first stays."""
    found: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        url = canonical_url(endpoint.url)
        found.setdefault(url, endpoint if url == endpoint.url else replace(endpoint, url=url))
    return tuple(found.values())


def normalized(config: EndpointConfig, source: str) -> EndpointConfig:
    """Make the URLs of a list canonical, and drop each ``server_name`` beside a host name.

    A ``server_name`` beside a host name would make a certificate for one name valid for another
    name, so only an IP address may have a ``server_name``.

    Args:
        config: The list.
        source: The source of the list, for the log.

    Raises:
        PayloadError: If an API endpoint is not an http or https URL.
    """
    for index, endpoint in enumerate(config.api_endpoints):
        if not _is_http(endpoint):
            raise PayloadError(f"api_endpoints[{index}]", _HTTP_ONLY)
    misnamed: list[str] = []

    def checked(endpoint: Endpoint) -> Endpoint:
        if endpoint.server_name is None or is_ip(parse_url(endpoint.url).host):
            return endpoint
        misnamed.append(endpoint.url)
        return replace(endpoint, server_name=None)

    kinds = config.kinds().values()
    taken = EndpointConfig(*(canonical(map(checked, endpoints)) for endpoints in kinds))
    _warn("%s: server_name is left out, it may stand at an IP address only: %s", source, misnamed)
    return taken


def is_plain(endpoint: Endpoint) -> bool:
    """Whether the traffic to an endpoint is unencrypted (http or ws)."""
    return endpoint.url.startswith(("http://", "ws://"))


def urls_of(config: EndpointConfig, wanted: Callable[[Endpoint], bool]) -> list[str]:
    """List the URLs of the endpoints of both kinds for which ``wanted`` is true."""
    return [e.url for endpoints in config.kinds().values() for e in endpoints if wanted(e)]


def without_plain(
    config: EndpointConfig, source: str, kept: frozenset[str] = frozenset()
) -> EndpointConfig:
    """Return a list without its unencrypted endpoints, except for the URLs in ``kept``."""
    left_out = [url for url in urls_of(config, is_plain) if url not in kept]
    _warn("%s: endpoints over plain http are left out (allow_http=True): %s", source, left_out)
    gone, kinds = frozenset(left_out), config.kinds().values()
    return EndpointConfig(*(tuple(e for e in kind if e.url not in gone) for kind in kinds))


def _warn(message: str, source: str, urls: list[str]) -> None:
    if urls:
        more = f" and {len(urls) - _NAMED} more" if len(urls) > _NAMED else ""
        logger.warning(message, source, ", ".join(urls[:_NAMED]) + more)
