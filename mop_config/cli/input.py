"""Read an endpoint file or a key in etcd, and judge the text by the server's rules."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import click

from ..errors import AddressError, SourceError
from ..model.address import EtcdAddress, without_userinfo
from ..model.endpoint import Kind
from ..server.parsing.problems import Code, Problem
from ..server.parsing.render import EMPTY_BODY, Rendering, decode, render
from ..server.parsing.window import PlannedChange
from ..server.reload.guard import Replaced, check_acceptable, with_planned_refusals
from ..server.settings import Settings
from ..server.sources import SCHEME, open_source


class Reading(NamedTuple):
    """A text, parsed and judged by the server's rules.

    Attributes:
        path: Name of the file or key, as given by the user.
        data: The bytes, empty if the file or key cannot be read.
        lines: The lines, empty if the bytes are not text.
        rendering: The rendered list, or None if the text is refused before parsing.
        refusal: The error that refuses the whole text, or None.
    """

    path: str
    data: bytes
    lines: list[str]
    rendering: Rendering | None
    refusal: SourceError | None

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


def not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty argument, which usually comes from an unset variable of a script."""
    if value == "":
        raise click.BadParameter("must not be empty", context, parameter)
    return value


def is_etcd(text: str) -> bool:
    """Return whether an argument names a key in etcd, not a file."""
    return text.startswith(SCHEME)


def etcd_key(text: str) -> EtcdAddress:
    """Parse the address of a key in etcd.

    Raises:
        click.BadParameter: If the text is not such an address.
    """
    try:
        return EtcdAddress.parse(text)
    except AddressError as error:
        message = (
            f"{without_userinfo(text)!r} is not etcd://host:2379[,host:2379]/key ({error.message})"
        )
        raise click.BadParameter(message) from None


def settings_for(file: str | None) -> Settings:
    """Read the settings from the environment; a file argument replaces the source.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    settings = Settings.from_environ()
    if file is None:
        return settings
    return replace(settings, source=etcd_key(file).text if is_etcd(file) else file)


def read(file: str | None) -> tuple[Reading, Settings]:
    """Read a file like a starting server; None reads the file that the environment names.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    settings = settings_for(file)
    source = open_source(settings)
    return judged(file or settings.source, lambda: source.read().data, settings), settings


def judged(name: str, read_data: Callable[[], bytes], settings: Settings) -> Reading:
    """Read a text and judge it like a server that already serves a list.

    Args:
        name: Name of the text in messages.
        read_data: Function that returns the bytes, or raises ``SourceError``.
        settings: The server's settings.
    """
    data = b""
    lines: list[str] = []
    rendering = refusal = None
    try:
        data = read_data()
        lines = decode(data).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        rendering = render(data, settings.rules, EMPTY_BODY, time.time())
        rendering = with_planned_refusals(rendering, settings)
        # Assume a server that serves endpoints of the kinds in the text.
        served = Replaced({kind: max(rendering.count(kind), not rendering.usable) for kind in Kind})
        check_acceptable(rendering, settings, data, served)
    except SourceError as error:
        named = error.code not in {Code.NOT_UTF8, Code.NUL}
        if not named:
            error = SourceError(error.code, f"{name}: {error}", error.line, error.column)
        refusal = error
    return Reading(name, data, lines, rendering, refusal)
