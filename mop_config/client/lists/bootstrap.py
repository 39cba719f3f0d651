"""Parse the built-in endpoints that an application configures. Pure."""

from collections.abc import Iterable
from typing import Any

from ...errors import AddressError, PayloadError
from ...model.endpoint import Endpoint, EndpointConfig
from ..keywords import Several
from .normalize import canonical

#: The types of a built-in list.
Bootstrap = EndpointConfig | Several[str | Endpoint | tuple[str, int]]


def config_of(api: Bootstrap, sockets: Bootstrap) -> EndpointConfig:
    """Read the built-in endpoints of both kinds.

    Raises:
        AddressError: If a URL or a priority cannot be used.
        TypeError: If an argument has another type.
    """
    if isinstance(api, EndpointConfig):
        config = api
        if not isinstance(sockets, EndpointConfig) and tuple(sockets):
            raise TypeError("an EndpointConfig has both kinds: give it alone")
    elif isinstance(sockets, EndpointConfig):
        raise TypeError("an EndpointConfig has both kinds: give it first, and alone")
    else:
        kinds = (_endpoints("api_endpoints", api), _endpoints("socket_endpoints", sockets))
        config = EndpointConfig(*map(tuple, kinds))
    for index, endpoint in enumerate(config.api_endpoints):
        if not is_http(endpoint):
            raise AddressError("bad-scheme", f"api_endpoints[{index}]: {_HTTP_ONLY}")
    return EndpointConfig(*map(canonical, config.kinds().values()))


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


_HTTP_ONLY = "an API endpoint needs an http or https URL"


def is_http(endpoint: Endpoint) -> bool:
    """Whether an endpoint may be an API endpoint: its scheme is http or https."""
    return endpoint.url.startswith(("http://", "https://"))


def check_api(endpoint: Endpoint, where: str | None = None) -> None:
    """Check that the scheme of an API endpoint is http or https.

    Args:
        endpoint: The endpoint.
        where: The member of the document that holds the endpoint, or None without a document.

    Raises:
        AddressError: If the scheme is not http or https, and ``where`` is None.
        PayloadError: If the scheme is not http or https, and ``where`` is given.
    """
    if is_http(endpoint):
        return
    if where is not None:
        raise PayloadError(where, _HTTP_ONLY)
    raise AddressError("bad-scheme", _HTTP_ONLY)
