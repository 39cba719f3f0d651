"""Normalize an endpoint list from outside: one spelling of URLs, no forbidden names. Pure."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from ...model.address import DEFAULT_PORTS, is_ip, parse_url
from ...model.endpoint import Endpoint, EndpointConfig

logger = logging.getLogger(__name__)

#: Endpoints that a line in the log names.
_NAMED = 5


def canonical_url(url: str) -> str:
    """Return the canonical URL of an endpoint: no default port, no final slash.

    Raises:
        AddressError: If it is no URL of an endpoint.
    """
    if not isinstance(url, str):
        raise TypeError(f"an endpoint's URL must be a text, not {url!r}")
    parsed = parse_url(url)
    port = "" if parsed.port in {None, DEFAULT_PORTS[parsed.scheme]} else f":{parsed.port}"
    return f"{parsed.scheme}://{parsed.host}{port}{parsed.path.rstrip('/')}"


def without_query(url: str) -> str:
    """Return a URL for logs, errors and files: the query of a signed URL is a credential."""
    address, mark, _ = url.partition("?")
    return address + "?…" if mark else address


def canonical(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return endpoints with canonical URLs; of two with the same URL the first stays."""
    found: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        url = canonical_url(endpoint.url)
        found.setdefault(url, endpoint if url == endpoint.url else replace(endpoint, url=url))
    return tuple(found.values())


def normalized(config: EndpointConfig, source: str) -> EndpointConfig:
    """Make the URLs of a list canonical, and drop each ``server_name`` that it may not set.

    A ``server_name`` at a host name would make a certificate for one name good for another, so
    only an IP address may have one.

    Args:
        config: The list.
        source: Where it came from, for the log.
    """
    misnamed: list[str] = []

    def checked(endpoint: Endpoint) -> Endpoint:
        if endpoint.server_name is None or is_ip(parse_url(endpoint.url).host):
            return endpoint
        misnamed.append(endpoint.url)
        return replace(endpoint, server_name=None)

    kinds = config.kinds().values()
    taken = EndpointConfig(*(canonical(map(checked, endpoints)) for endpoints in kinds))
    _tell("%s: server_name is left out, it may stand at an IP address only: %s", source, misnamed)
    return taken


def is_plain(endpoint: Endpoint) -> bool:
    """Whether what goes to an endpoint is not encrypted."""
    return endpoint.url.startswith(("http://", "ws://"))


def has_plain(config: EndpointConfig) -> bool:
    """Whether a list names an endpoint without encryption."""
    return any(is_plain(each) for endpoints in config.kinds().values() for each in endpoints)


def without_plain(config: EndpointConfig, source: str) -> EndpointConfig:
    """Leave out the endpoints of a list that are not encrypted."""
    left_out = [e.url for endpoints in config.kinds().values() for e in endpoints if is_plain(e)]
    if not left_out:
        return config
    _tell("%s: endpoints over plain http are left out (allow_http=True): %s", source, left_out)
    return _filtered(config, lambda endpoint: not is_plain(endpoint))


def without_added_plain(config: EndpointConfig, before: EndpointConfig) -> EndpointConfig:
    """Leave out the unencrypted endpoints of a signed list that were left out when it was taken."""
    there = {e.url for endpoints in before.kinds().values() for e in endpoints}
    return _filtered(config, lambda endpoint: not is_plain(endpoint) or endpoint.url in there)


def _filtered(config: EndpointConfig, wanted: Callable[[Endpoint], bool]) -> EndpointConfig:
    return EndpointConfig(*(tuple(filter(wanted, each)) for each in config.kinds().values()))


def _tell(message: str, source: str, urls: list[str]) -> None:
    if urls:
        more = f" and {len(urls) - _NAMED} more" if len(urls) > _NAMED else ""
        logger.warning(message, source, ", ".join(urls[:_NAMED]) + more)
