"""Normalize an external endpoint list: canonical URLs, no forbidden server names. Pure."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from ...model.address import DEFAULT_PORTS, is_ip, parse_url
from ...model.endpoint import Endpoint, EndpointConfig

logger = logging.getLogger(__name__)

#: Limit of the endpoints that a log line names.
_NAMED = 5


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
    """Whether the traffic to an endpoint is unencrypted (http or ws)."""
    return endpoint.url.startswith(("http://", "ws://"))


def has_plain(config: EndpointConfig) -> bool:
    """Whether a list names an endpoint without encryption."""
    return any(is_plain(each) for endpoints in config.kinds().values() for each in endpoints)


def without_plain(config: EndpointConfig, source: str) -> EndpointConfig:
    """Return a list without its unencrypted endpoints."""
    left_out = [e.url for endpoints in config.kinds().values() for e in endpoints if is_plain(e)]
    if not left_out:
        return config
    _tell("%s: endpoints over plain http are left out (allow_http=True): %s", source, left_out)
    return _filtered(config, lambda endpoint: not is_plain(endpoint))


def without_added_plain(config: EndpointConfig, before: EndpointConfig) -> EndpointConfig:
    """Return a signed list without the unencrypted endpoints that were dropped on acceptance."""
    there = {e.url for endpoints in before.kinds().values() for e in endpoints}
    return _filtered(config, lambda endpoint: not is_plain(endpoint) or endpoint.url in there)


def _filtered(config: EndpointConfig, wanted: Callable[[Endpoint], bool]) -> EndpointConfig:
    return EndpointConfig(*(tuple(filter(wanted, each)) for each in config.kinds().values()))


def _tell(message: str, source: str, urls: list[str]) -> None:
    if urls:
        more = f" and {len(urls) - _NAMED} more" if len(urls) > _NAMED else ""
        logger.warning(message, source, ", ".join(urls[:_NAMED]) + more)
