"""A list of endpoints, wherever an argument says that it is."""

from ..errors import MopConfigError
from ..model import codec
from ..model.endpoint import EndpointConfig
from ..server.parsing.problems import Code
from .input import read
from .output import warn
from .server_api import fetch, is_url, read_token


def read_list(source: str | None, token_file: str | None, *, quiet: bool = False) -> EndpointConfig:
    """Read the list in a file, or ask a server for its own.

    What is odd in a file is told on the standard error.

    Args:
        source: ``[FILE|URL]``, or None for the file that the environment names.
        token_file: As of ``token_option``.
        quiet: Whether to keep what is odd to oneself.

    Raises:
        click.BadParameter: If a URL cannot be used.
        MopConfigError: If there is no list to be had.
    """
    if source is not None and is_url(source):
        return fetch(source, "FILE|URL", read_token(token_file))
    reading, settings = read(source)
    if reading.refusal is not None and reading.refusal.code == Code.NO_ENDPOINTS:
        # What a server would do about it is of no interest here.
        raise MopConfigError(f"{reading.path} has no usable endpoint")
    if reading.rendering is None or reading.refusal is not None:
        raise MopConfigError(str(reading.refusal))
    if not quiet:
        warn(settings, reading.problems)
    return codec.loads(reading.rendering.body)
