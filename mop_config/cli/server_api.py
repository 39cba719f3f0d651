"""What the commands share that ask a running server: one request, with a token where it may go."""

import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..errors import AddressError, MopConfigError, PayloadError
from ..model import codec
from ..model.address import is_loopback, parse_url
from ..model.endpoint import EndpointConfig
from ..model.printable import blanked
from ..net.http import may_send_token
from ..server.settings import TOKEN, ProcessSettings, Settings
from .input import not_empty

VARIABLE = "MOP_CONFIG_TOKEN"

LIST_PATH = "/api/v1/config/endpoints"
_SCHEMES = ("http://", "https://")
_TIMEOUT = 10.0
_MAX_BYTES = 64 << 20
_MAX_TOKEN_FILE = 4096
#: Of a server's own words that are shown.
_MAX_DETAIL = 300

#: For commands that ask a server: hands ``token_file`` over, which ``read_token`` takes.
token_option = click.option(
    "--token-file",
    metavar="FILE",
    callback=not_empty,
    help=f"File of the token that the server wants; without it, {VARIABLE} in the environment.",
)


class ServerReply(NamedTuple):
    """A server's answer, whatever its status.

    Attributes:
        url: What was asked.
        status: HTTP status code.
        headers: The answer's headers; names in any case.
        body: The body.
        withheld: Whether there is a token that must not go to this URL.
    """

    url: str
    status: int
    headers: Message
    body: bytes
    withheld: bool = False

    def refusal(self) -> MopConfigError:
        """Say in one line what an answer other than the wanted one is."""
        reason = http.client.responses.get(self.status, "")
        line = f"{self.url} answers {self.status} {reason}".rstrip()
        if detail := self._detail():
            line += f": {detail}"
        if self.status == 401 and self.withheld:
            line += " (the token was not sent: it goes to https or to this machine only)"
        elif self.status == 401:
            line += f" (name it by --token-file FILE or {VARIABLE})"
        return MopConfigError(line)

    def _detail(self) -> str:
        """What a problem document says (RFC 9457), with nothing that a terminal would obey."""
        try:
            detail = json.loads(self.body).get("detail")
        except (ValueError, AttributeError, RecursionError):
            return ""
        text = detail if isinstance(detail, str) else ""
        return blanked(text[:_MAX_DETAIL])


def report(url: str | None, path: str, token_file: str | None, **options: Any) -> ServerReply:
    """Ask a server for what it says of itself: that at a URL, or the environment's own.

    Args:
        url: Of the server; None for the one that the environment describes, whose own token
            is taken where no other is named.
        path: The route's.
        token_file: As of ``token_option``.
        options: As for ``ask``.
    """
    token = read_token(token_file)
    if url is None:
        url, token = own_url(), token or own_token()
    return ask(route(url, path, "URL"), token=token, **options)


def problem_line(problem: dict[str, Any]) -> str:
    """Write a problem of the status document as one line, as ``check`` does."""
    place = f"{problem['line']}:{problem['column']}: " if problem["text"] else ""
    return f"{place}{problem['severity']}: {problem['message']} [{problem['code']}]"


def is_url(text: str) -> bool:
    """Whether an argument names a server, not a file."""
    return text.lower().startswith(_SCHEMES)


def route(url: str, path: str, hint: str) -> str:
    """Give the URL of a route of a server.

    Args:
        url: Of the server; the path of its list or ``/api/v1`` may stand behind it.
        path: The route's, such as ``/api/v1/config/endpoints``.
        hint: The argument that the URL was given in.

    Raises:
        click.BadParameter: If it is no http or https URL.
    """
    try:
        base = parse_url(url, ("http", "https"), underscores=True).text
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint=hint) from None
    return (
        base.rstrip("/").removesuffix(path).removesuffix(LIST_PATH).removesuffix("/api/v1") + path
    )


def own_url() -> str:
    """Give the URL at which the server that the environment describes listens on this machine.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
        MopConfigError: If the server takes whichever port is free.
    """
    process = ProcessSettings.from_environ()
    if process.port == 0:
        raise MopConfigError("PORT=0 is any free port: name the server's URL")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(process.host, process.host)  # noqa: S104
    return f"http://{host}:{process.port}"


def own_token() -> str | None:
    """Give the first token of ``ENDPOINT_TOKENS``, which the environment's own server takes."""
    tokens = Settings.from_environ().tokens
    return tokens[0] if tokens else None


def read_token(file: str | None) -> str | None:
    """Read the token out of a file, or else out of the environment; None where there is none.

    Raises:
        MopConfigError: If the file cannot be read, or what is found is no token.
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
    timeout: float = _TIMEOUT,
) -> ServerReply:
    """Send one request, and give the answer whatever its status.

    A token goes to https or to this machine only, and after no redirect.

    Args:
        url: Where to.
        method: ``GET`` or ``POST``.
        token: See ``read_token``.
        headers: Further headers.
        timeout: Seconds without a sign of life after which the server counts as gone.

    Raises:
        MopConfigError: If there is no answer.
    """
    request = urllib.request.Request(  # noqa: S310 - callers give http and https only
        url, headers=dict(headers or {}), method=method, data=b"" if method == "POST" else None
    )
    target = parse_url(url.partition("?")[0], ("http", "https"), underscores=True)
    sent = token is not None and may_send_token(target)
    handlers = []
    if sent:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if is_loopback(target.host):
        handlers.append(urllib.request.ProxyHandler({}))  # it would read the token
    withheld = token is not None and not sent
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            return ServerReply(
                url, answer.status, answer.headers, answer.read(_MAX_BYTES), withheld
            )
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(_MAX_BYTES) if error.fp else b""
            return ServerReply(url, error.code, error.headers or Message(), body, withheld)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise MopConfigError(f"{url} gives no answer: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {reason.verify_message}"
    return str(reason or type(error).__name__)


def fetch(url: str, hint: str, token: str | None = None) -> EndpointConfig:
    """Ask a server for its list.

    Args:
        url: Of the server, with or without the path of its list.
        hint: The argument that the URL was given in.
        token: See ``read_token``.

    Raises:
        click.BadParameter: If it is no http or https URL.
        MopConfigError: If there is no list to be had.
    """
    reply = ask(route(url, LIST_PATH, hint), token=token)
    if reply.status != 200:
        raise reply.refusal()
    try:
        return codec.loads(reply.body)
    except PayloadError as error:
        raise MopConfigError(f"{reply.url} gives no list: {error}") from None
