"""Read an endpoint file, a key in etcd or a server's list, and judge it by the server's rules."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import click

from ..errors import AddressError, MopConfigError, SourceError
from ..model import codec
from ..model.address import EtcdAddress, without_userinfo
from ..model.endpoint import EndpointConfig, Kind
from ..server.parsing.problems import Code, Problem
from ..server.parsing.render import EMPTY_BODY, Rendering, decode, render
from ..server.parsing.window import PlannedChange
from ..server.reload.guard import Replaced, check_acceptable, with_planned_refusals
from ..server.settings import Settings
from ..server.sources import SCHEME, open_source
from .output import complain
from .server_api import fetch, is_url, read_token


class Reading(NamedTuple):
    """A text, parsed and judged by the server's rules.

    Attributes:
        path: Name of the file or key, as given by the user.
        settings: The settings by which the text was judged.
        data: The bytes, empty if the file or key cannot be read.
        mtime: POSIX seconds of the last change of the file or key; 0 if it cannot be read.
        lines: The lines, empty if the bytes are not text.
        rendering: The rendered list, or None if the text is refused before parsing.
        refusal: The error that refuses the whole text, or None.
    """

    path: str
    settings: Settings
    data: bytes
    mtime: float
    lines: list[str]
    rendering: Rendering | None
    refusal: SourceError | None

    @property
    def config(self) -> EndpointConfig | None:
        """The list, or None if the text is refused before parsing."""
        return codec.loads(self.rendering.body) if self.rendering else None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The kept problems, the refusal first."""
        found = self.rendering.problems if self.rendering else ()
        if self.refusal is None:
            return found
        code = Code(self.refusal.code)
        line, column = self.refusal.line, self.refusal.column
        return (Problem(line, column, code.severity, code, str(self.refusal), ""), *found)

    @property
    def planned(self) -> tuple[PlannedChange, ...]:
        """The future boundaries of time windows."""
        return self.rendering.planned if self.rendering else ()

    @property
    def errors(self) -> int:
        """Exact number of errors."""
        return (self.refusal is not None) + (self.rendering.errors if self.rendering else 0)

    @property
    def warnings(self) -> int:
        """Exact number of warnings."""
        return self.rendering.warnings if self.rendering else 0


def settings_for(file: str | None) -> Settings:
    """Read the settings from the environment; a file argument replaces the source.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
        click.BadParameter: If the argument is not a valid address of a key in etcd.
    """
    settings = Settings.from_environ()
    if file is None:
        return settings
    return replace(settings, source=etcd_key(file) if file.startswith(SCHEME) else file)


def etcd_key(text: str) -> str:
    """Return the canonical address of a key in etcd.

    Raises:
        click.BadParameter: If the text is not such an address.
    """
    try:
        return EtcdAddress.parse(text).text
    except AddressError as error:
        shown = repr(without_userinfo(text))
        message = f"{shown} is not etcd://host:2379[,host:2379]/key ({error.message})"
        raise click.BadParameter(message) from None


def read(file: str | None) -> Reading:
    """Read a file like a starting server; None reads the file that the environment names.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    settings = settings_for(file)
    source = open_source(settings)
    return judged(file or settings.source, lambda: source.read()[:2], settings)


def judged(name: str, read_text: Callable[[], tuple[bytes, float]], settings: Settings) -> Reading:
    """Read a text and judge it like a server that already serves a list.

    Args:
        name: Name of the text in messages.
        read_text: Function that returns the bytes and the time of their last change, or raises
            ``SourceError``.
        settings: The server's settings.
    """
    data, mtime = b"", 0.0
    lines: list[str] = []
    rendering = refusal = None
    try:
        data, mtime = read_text()
        lines = decode(data).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        rendering = render(data, settings.rules, EMPTY_BODY, time.time())
        rendering = with_planned_refusals(rendering, settings)
        # Assume a server that serves endpoints of the kinds in the text.
        served = Replaced({kind: max(rendering.count(kind), not rendering.usable) for kind in Kind})
        check_acceptable(rendering, settings, data, served)
    except SourceError as error:
        refusal = error
        if error.code in {Code.NOT_UTF8, Code.NUL}:
            refusal = SourceError(error.code, f"{name}: {error}", error.line, error.column)
    return Reading(name, settings, data, mtime, lines, rendering, refusal)


def warn(settings: Settings, problems: Iterable[Problem]) -> None:
    """Print the warnings of the settings and the problems of a file on standard error."""
    for warning in settings.warnings:
        complain(f"warning: {warning}")
    for problem in problems:
        complain(problem)


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
    reading = read(source)
    if reading.refusal is not None and reading.refusal.code == Code.NO_ENDPOINTS:
        # Not the refusal's own message, which mentions a server.
        raise MopConfigError(f"{reading.path} has no usable endpoint")
    if reading.config is None or reading.refusal is not None:
        raise MopConfigError(str(reading.refusal))
    if not quiet:
        warn(reading.settings, reading.problems)
    return reading.config
