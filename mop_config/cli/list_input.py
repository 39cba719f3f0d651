"""Read the list that ``[FILE|URL]`` names: from a file, a key in etcd or a server."""

from ..errors import MopConfigError
from ..model import codec
from ..model.endpoint import EndpointConfig
from ..server.parsing.problems import Code
from .input import read
from .output import warn
from .server_api import fetch, is_url, read_token


def read_list(source: str | None, token_file: str | None, *, quiet: bool = False) -> EndpointConfig:
    """Read the list in a file, or fetch the list of a server.

    Warnings and problems of a file are printed on standard error.

    Args:
        source: ``[FILE|URL]``, or None for the file that the environment names.
        token_file: Value of ``token_option``.
        quiet: Whether to print no warnings and problems.

    Raises:
        click.BadParameter: If the URL is not valid.
        MopConfigError: If there is no valid list.
    """
    if source is not None and is_url(source):
        return fetch(source, "FILE|URL", read_token(token_file))
    reading, settings = read(source)
    if reading.refusal is not None and reading.refusal.code == Code.NO_ENDPOINTS:
        # Not the refusal's own message, which mentions a server.
        raise MopConfigError(f"{reading.path} has no usable endpoint")
    if reading.rendering is None or reading.refusal is not None:
        raise MopConfigError(str(reading.refusal))
    if not quiet:
        warn(settings, reading.problems)
    return codec.loads(reading.rendering.body)
