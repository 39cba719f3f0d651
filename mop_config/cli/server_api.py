"""Sends one request to a running server, with a token only over https or to this machine."""

import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from http.client import responses
from typing import Any, NamedTuple

import click

from ..errors import AddressError, MopConfigError, PayloadError
from ..model.address import is_ip, parse_url
from ..model.endpoint import EndpointConfig, loads
from ..model.printable import blanked
from ..net.connect import DialOptions, ServerAddress
from ..net.faults import HttpError
from ..net.http import HttpClient, HttpRequest, may_send_token
from ..net.proxies import proxies_of_environment, proxy_of
from ..server.parsing.problems import ProblemRecord
from ..server.settings import TOKEN, ProcessSettings, Settings
from .output import AS_ROOT

VARIABLE = "MOP_CONFIG_TOKEN"

LIST_PATH = "/api/v1/config/endpoints"
#: Limits in seconds: one wait for bytes, and the whole transfer after the first wait.
_SILENCE, _TRANSFER = 10.0, 20.0
_MAX_BYTES = 64 << 20
_MAX_TOKEN_FILE = 4096
#: Maximum number of characters shown of a server's message.
_MAX_DETAIL = 300

#: The option ``--token-file`` of commands that send a request; ``read_token`` reads the file.
token_option = click.option(
    "--token-file",
    metavar="FILE",
    help=f"File with the token for the server  [{VARIABLE} holds the token itself]",
)


class ServerReply(NamedTuple):
    """The response of a server, with any status.

    Attributes:
        url: The requested URL.
        status: HTTP status code.
        headers: The response's headers, with names in lower case.
        body: The body.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def refusal(self) -> MopConfigError:
        """Return the error for an unexpected status, with the detail of a problem document."""
        line = f"{self.url} answers {self.status} {responses.get(self.status, '')}".rstrip()
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            line += f": {blanked(json.loads(self.body)['detail'][:_MAX_DETAIL])}"
        if self.status == 401:
            where = parse_url(self.url.partition("?")[0], underscores=True)
            safe = may_send_token(where) or _is_own_address(where.host)
            hint = f"name it by --token-file FILE or {VARIABLE}"
            line += f" ({hint if safe else 'a token goes to https or to this machine only'})"
        return MopConfigError(line)

    def config(self) -> EndpointConfig:
        """Return the list in the body.

        Raises:
            MopConfigError: If the body is no valid list, or the status is not 200.
        """
        if self.status != 200:
            raise self.refusal()
        try:
            return loads(self.body)
        except PayloadError as error:
            raise MopConfigError(f"{self.url} gives no list: {error}") from None

    @contextlib.contextmanager
    def expecting(self, what: str) -> Iterator[None]:
        """Replace errors from reading the body by one error that names the server.

        Args:
            what: The expected document.
        """
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            if self.status != 200:
                raise self.refusal() from None
            raise MopConfigError(
                f"{self.url} did not return {what}; is this a mop-config server?"
            ) from None


def problem_line(problem: ProblemRecord) -> str:
    """Format a problem of the status document as one line, in the form of ``check``."""
    place = f"{problem['line']}:{problem['column']}: " if problem["text"] else ""
    return f"{place}{problem['severity']}: {problem['message']} [{problem['code']}]"


def is_url(text: str) -> bool:
    """Return whether an argument is the URL of a server, not a file."""
    return text.lower().startswith(("http://", "https://"))


def route(url: str, path: str, hint: str) -> str:
    """Return the URL of a route of a server.

    Args:
        url: URL of the server; it may end in the path of the list, plain or signed, or in
            ``/api/v1``.
        path: Path of the route, such as ``/api/v1/config/endpoints``.
        hint: Name of the argument, for messages.

    Raises:
        click.BadParameter: If the text is not an http or https URL.
    """
    try:
        base = parse_url(url, ("http", "https"), underscores=True).text.rstrip("/")
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint=hint) from None
    for known in (path, f"{LIST_PATH}.jws", LIST_PATH, "/api/v1"):
        base = base.removesuffix(known)
    return base + path


def server_of(url: str | None, token_file: str | None) -> tuple[str, str | None]:
    """Return the URL of a server and the token for it.

    Args:
        url: URL of the server; None for the server of this machine that the environment
            describes, which accepts the first token of ``ENDPOINT_TOKENS``.
        token_file: Value of ``token_option``.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
        MopConfigError: If there is no usable token, or the server's port is any free port.
    """
    token = read_token(token_file)
    if url is not None:
        return url, token
    process = ProcessSettings.from_environ()
    if process.port == 0:
        raise MopConfigError("PORT=0 is any free port: name the server's URL")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(process.host, process.host)  # noqa: S104
    own_tokens = Settings.from_environ().tokens
    return f"http://{host}:{process.port}", token or next(iter(own_tokens), None)


def read_token(file: str | None) -> str | None:
    """Read the token from a file, else from the environment; return None without a token.

    Raises:
        MopConfigError: If the file cannot be read, or its content is not a token.
    """
    if file is not None:
        token = read_file(file, _MAX_TOKEN_FILE).decode("ascii", "replace").strip()
    elif not (token := os.environ.get(VARIABLE, "").strip()):
        return None
    if not TOKEN.fullmatch(token):
        rule = "one line of A-Z a-z 0-9 - . _ ~ + / and ="
        raise MopConfigError(f"{file or VARIABLE} holds no token: {rule}")
    return token


def read_file(path: str, limit: int) -> bytes:
    """Read a file, up to a number of bytes.

    Raises:
        MopConfigError: If the file cannot be read; without the right to, it says how to run.
    """
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        advice = f"; {AS_ROOT}" if isinstance(error, PermissionError) else ""
        raise MopConfigError(f"{path} cannot be read: {error.strerror or error}{advice}") from None


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
        MopConfigError: If the server does not respond, or the environment's proxy is invalid.
    """
    try:
        environment = proxies_of_environment()
    except (ValueError, ImportError) as error:
        raise MopConfigError(str(error)) from None
    host = parse_url(url.partition("?")[0], underscores=True).host
    own = host if _is_own_address(host) else ""

    def proxy_for(server: ServerAddress) -> Any:
        if server.host == own:
            return None  # no proxy sees a token for this machine
        scheme = "http" if server.tls_name is None else "https"
        return proxy_of(environment, scheme, server.host.strip("[]"))

    client = HttpClient(DialOptions(ssl.create_default_context(), _SILENCE, proxy_for=proxy_for))
    deadline = time.monotonic() + silence + _TRANSFER
    request = HttpRequest(
        url,
        deadline,
        _MAX_BYTES,
        method,
        headers or {},
        token=token,
        token_host=own,
        silence=silence,
    )
    try:
        return ServerReply(url, *client.request(request))
    except HttpError as error:
        raise MopConfigError(f"{url} gives no answer: {error}") from None


def _is_own_address(host: str) -> bool:
    """Whether a host is an IP address of this machine, such as the value of ``HOST``."""
    if not is_ip(host):
        return False
    address, family = host.strip("[]"), socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing, but chooses the address to send from
        return bool(probe.getsockname()[0] == address)
    return False


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
    return ask(route(url, LIST_PATH, hint), token=token, silence=silence).config()
