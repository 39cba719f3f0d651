"""What ``show`` and ``probe`` share: asking a running server for its list."""

import http.client
import urllib.error
import urllib.request

import click

from .. import payload
from ..address import parse_url
from ..errors import AddressError, MopConfigError, PayloadError
from ..model import EndpointConfig

_PATH = "/api/v1/config/endpoints"
_SCHEMES = ("http://", "https://")
_TIMEOUT = 10.0
_MAX_BYTES = 64 << 20


def is_url(text: str) -> bool:
    """Whether an argument names a server, not a file."""
    return text.lower().startswith(_SCHEMES)


def fetch(url: str, hint: str) -> EndpointConfig:
    """Ask a server for its list.

    Args:
        url: Of the server, with or without the path of its list.
        hint: The argument that the URL was given in.

    Raises:
        click.BadParameter: If it is no http or https URL.
        MopConfigError: If there is no list to be had.
    """
    try:
        url = parse_url(url, ("http", "https")).text
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint=hint) from None
    if not url.endswith(_PATH):
        url = url.rstrip("/").removesuffix("/api/v1") + _PATH
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:  # noqa: S310
            return payload.loads(response.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        raise MopConfigError(f"{url} answers {error.code} {error.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error if isinstance(error, PayloadError) else getattr(error, "reason", error)
        raise MopConfigError(f"{url} gives no list: {reason or type(error).__name__}") from None
