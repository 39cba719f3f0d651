"""Built-in endpoints: the forms in which an application may hand them over. Pure."""

from collections.abc import Iterable

from ..errors import AddressError, PayloadError
from ..model import Endpoint, EndpointConfig
from .sift import canonical

#: What a built-in list may be made of.
Seed = EndpointConfig | Iterable[str | Endpoint | tuple[str, int]]


def config_of(api: Seed, sockets: Seed) -> EndpointConfig:
    """Read the built-in endpoints of both kinds.

    Raises:
        AddressError: If a URL or a priority cannot be used.
        TypeError: If it is none of the forms.
    """
    if isinstance(api, EndpointConfig):
        config = api
        if not isinstance(sockets, EndpointConfig) and tuple(sockets):
            raise TypeError("an EndpointConfig has both kinds: give it alone")
    elif isinstance(sockets, EndpointConfig):
        raise TypeError("an EndpointConfig has both kinds: give it first, and alone")
    else:
        config = EndpointConfig(tuple(_endpoints(api)), tuple(_endpoints(sockets)))
    for endpoint in config.api_endpoints:
        check_api(endpoint)
    return EndpointConfig(*map(canonical, config.kinds().values()))


def _endpoints(seed: Iterable[str | Endpoint | tuple[str, int]]) -> Iterable[Endpoint]:
    if isinstance(seed, str):
        raise TypeError("give a list of URLs, not one URL")
    for position, entry in enumerate(seed):
        if isinstance(entry, Endpoint):
            yield entry
        elif isinstance(entry, str):
            yield Endpoint.parse(entry, position)
        else:
            yield Endpoint.parse(*entry)


def check_api(endpoint: Endpoint, where: str | None = None) -> None:
    """Hold an API endpoint to its schemes.

    Args:
        endpoint: What to look at.
        where: The member of a document that it came from, or None.

    Raises:
        AddressError: If it is no http or https URL.
        PayloadError: The same, where it came from a document.
    """
    if endpoint.url.startswith(("http://", "https://")):
        return
    message = "an API endpoint needs an http or https URL"
    if where is not None:
        raise PayloadError(where, message)
    raise AddressError("bad-scheme", message)
