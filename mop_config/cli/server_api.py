"""Sends one request to a running server, with a token only over https or to this machine."""

import json
import os
import ssl
import time
import urllib.request
from collections.abc import Mapping
from functools import partial
from http.client import responses
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..errors import AddressError, MopConfigError, PayloadError
from ..model import codec
from ..model.address import parse_url
from ..model.endpoint import EndpointConfig
from ..model.printable import blanked
from ..net.connect import DialOptions
from ..net.faults import HttpError
from ..net.http import HttpClient, HttpRequest, may_send_token, proxy_of
from ..server.parsing.problems import ProblemRecord
from ..server.settings import TOKEN, ProcessSettings, Settings
from .input import not_empty

VARIABLE = "MOP_CONFIG_TOKEN"

LIST_PATH = "/api/v1/config/endpoints"
_SCHEMES = ("http://", "https://")
#: Limits in seconds: one wait for bytes, and the whole transfer after the first wait.
_SILENCE, _TRANSFER = 10.0, 120.0
_MAX_BYTES = 64 << 20
_MAX_TOKEN_FILE = 4096
#: Maximum number of characters shown of a server's message.
_MAX_DETAIL = 300

#: The option ``--token-file`` of commands that send a request; ``read_token`` reads the file.
token_option = click.option(
    "--token-file",
    metavar="FILE",
    callback=not_empty,
    help=f"File with the token for the server  [{VARIABLE} holds the token itself]",
)


class ServerReply(NamedTuple):
    """The response of a server, with any status.

    Attributes:
        url: The requested URL.
        status: HTTP status code.
        headers: The response's headers, with names in lower case.
        body: The body.
        withheld: Whether a token was not sent, because the URL is neither https nor this machine.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    withheld: bool = False

    def refusal(self) -> MopConfigError:
        """Return the error for an unexpected status, in one line."""
        reason = responses.get(self.status, "")
        line = f"{self.url} answers {self.status} {reason}".rstrip()
        if detail := self._detail():
            line += f": {detail}"
        if self.status == 401 and self.withheld:
            line += " (the token was not sent: it goes to https or to this machine only)"
        elif self.status == 401:
            line += f" (name it by --token-file FILE or {VARIABLE})"
        return MopConfigError(line)

    def _detail(self) -> str:
        """The detail of a problem document (RFC 9457), without control characters."""
        try:
            detail = json.loads(self.body).get("detail")
        except (ValueError, AttributeError, RecursionError):
            return ""
        text = detail if isinstance(detail, str) else ""
        return blanked(text[:_MAX_DETAIL])


def report(url: str | None, path: str, token_file: str | None, **options: Any) -> ServerReply:
    """Send a request to a route of the server at ``url``, or of the environment's own server.

    Args:
        url: URL of the server; None for the server that the environment describes, with that
            server's own token unless another token is given.
        path: Path of the route.
        token_file: Value of ``token_option``.
        options: The options of ``ask``.
    """
    token = read_token(token_file)
    if url is None:
        url, token = own_url(), token or own_token()
    return ask(route(url, path, "URL"), token=token, **options)


def problem_line(problem: ProblemRecord) -> str:
    """Format a problem of the status document as one line, in the form of ``check``."""
    place = f"{problem['line']}:{problem['column']}: " if problem["text"] else ""
    return f"{place}{problem['severity']}: {problem['message']} [{problem['code']}]"


def is_url(text: str) -> bool:
    """Return whether an argument is the URL of a server, not a file."""
    return text.lower().startswith(_SCHEMES)


def route(url: str, path: str, hint: str) -> str:
    """Return the URL of a route of a server.

    Args:
        url: URL of the server; it may end in the path of the list or in ``/api/v1``.
        path: Path of the route, such as ``/api/v1/config/endpoints``.
        hint: Name of the argument, for messages.

    Raises:
        click.BadParameter: If the text is not an http or https URL.
    """
    try:
        base = parse_url(url, ("http", "https"), underscores=True).text
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint=hint) from None
    return (
        base.rstrip("/").removesuffix(path).removesuffix(LIST_PATH).removesuffix("/api/v1") + path
    )


def own_url() -> str:
    """Return the URL on this machine of the server that the environment describes.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
        MopConfigError: If the server's port is 0, which means any free port.
    """
    process = ProcessSettings.from_environ()
    if process.port == 0:
        raise MopConfigError("PORT=0 is any free port: name the server's URL")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(process.host, process.host)  # noqa: S104
    return f"http://{host}:{process.port}"


def own_token() -> str | None:
    """Return the first token of ``ENDPOINT_TOKENS``, which the environment's own server accepts."""
    tokens = Settings.from_environ().tokens
    return tokens[0] if tokens else None


def read_token(file: str | None) -> str | None:
    """Read the token from a file, else from the environment; return None without a token.

    Raises:
        MopConfigError: If the file cannot be read, or its content is not a token.
    """
    if file is None:
        token, where = os.environ.get(VARIABLE, "").strip(), VARIABLE
        if not token:
            return None
    else:
        try:
            with Path(file).open("rb") as opened:
                token, where = opened.read(_MAX_TOKEN_FILE).decode("ascii", "replace"), file
        except OSError as error:
            raise MopConfigError(f"{file} cannot be read: {error.strerror}") from None
        token = token.strip()
    if not TOKEN.fullmatch(token):
        raise MopConfigError(f"{where} holds no token: one line of A-Z a-z 0-9 - . _ ~ + / and =")
    return token


def ask(
    url: str,
    *,
    method: str = "GET",
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    silence: float = _SILENCE,
) -> ServerReply:
    """Send one request, and return the response with any status.

    A token is sent over https or to this machine only, and to no other server after a redirect.

    Args:
        url: The URL.
        method: ``GET`` or ``POST``.
        token: See ``read_token``.
        headers: Further headers.
        silence: Seconds without a byte from the server after which the request fails.

    Raises:
        MopConfigError: If the server does not respond.
    """
    client = HttpClient(
        DialOptions(ssl.create_default_context(), _SILENCE),
        proxy_for=partial(proxy_of, urllib.request.getproxies()),
    )
    deadline = time.monotonic() + silence + _TRANSFER
    request = HttpRequest(
        url, deadline, _MAX_BYTES, method, headers or {}, token=token, silence=silence
    )
    try:
        reply = client.request(request)
    except HttpError as error:
        raise MopConfigError(f"{url} gives no answer: {error}") from None
    target = parse_url(url.partition("?")[0], underscores=True)
    return ServerReply(url, *reply, withheld=token is not None and not may_send_token(target))


def fetch(
    url: str, hint: str, token: str | None = None, silence: float = _SILENCE
) -> EndpointConfig:
    """Fetch the list of a server.

    Args:
        url: URL of the server, with or without the path of its list.
        hint: Name of the argument, for messages.
        token: See ``read_token``.
        silence: See ``ask``.

    Raises:
        click.BadParameter: If the text is not an http or https URL.
        MopConfigError: If the server does not return a valid list.
    """
    reply = ask(route(url, LIST_PATH, hint), token=token, silence=silence)
    if reply.status != 200:
        raise reply.refusal()
    try:
        return codec.loads(reply.body)
    except PayloadError as error:
        raise MopConfigError(f"{reply.url} gives no list: {error}") from None
