"""What ``check``, ``show`` and ``push`` share: reading a text as the server would."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import click

from ..errors import AddressError, SourceError
from ..model.address import EtcdAddress, without_userinfo
from ..server.parsing.problems import Code, Problem
from ..server.parsing.render import EMPTY_BODY, Rendering, decode, render
from ..server.reload.pipeline import judge
from ..server.settings import Settings
from ..server.sources import SCHEME, open_source


class Reading(NamedTuple):
    """What the server would make of a file.

    Attributes:
        path: The file.
        data: Its bytes, or none where it cannot be read.
        lines: Its lines, or none where it is no text.
        rendering: The list, or None where the file is refused before parsing.
        refusal: Why the file would be refused as a whole, or None.
    """

    path: str
    data: bytes
    lines: list[str]
    rendering: Rendering | None
    refusal: SourceError | None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every finding that is kept, the refusal first."""
        found = self.rendering.problems if self.rendering else ()
        if self.refusal is None:
            return found
        code = Code(self.refusal.code)
        line, column = self.refusal.line, self.refusal.column
        return (Problem(line, column, code.severity, code, str(self.refusal), ""), *found)

    @property
    def errors(self) -> int:
        """How many errors there are."""
        return (self.refusal is not None) + (self.rendering.errors if self.rendering else 0)

    @property
    def warnings(self) -> int:
        """How many warnings there are."""
        return self.rendering.warnings if self.rendering else 0


def not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a file name of no characters: a script's variable is not set."""
    if value == "":
        raise click.BadParameter("must not be empty", context, parameter)
    return value


def is_etcd(text: str) -> bool:
    """Whether an argument names a key in etcd, not a file."""
    return text.startswith(SCHEME)


def etcd_key(text: str) -> EtcdAddress:
    """Read the address of a key in etcd.

    Raises:
        click.BadParameter: If it is none.
    """
    try:
        return EtcdAddress.parse(text)
    except AddressError as error:
        message = (
            f"{without_userinfo(text)!r} is not etcd://host:2379[,host:2379]/key ({error.message})"
        )
        raise click.BadParameter(message) from None


def settings_for(file: str | None) -> Settings:
    """Read the environment, with another source where an argument names one.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    settings = Settings.from_environ()
    if file is None:
        return settings
    return replace(settings, source=etcd_key(file).text if is_etcd(file) else file)


def read(file: str | None) -> tuple[Reading, Settings]:
    """Read a file, or the one that the environment names, as a fresh server would.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    settings = settings_for(file)
    source = open_source(settings)
    return judged(file or settings.source, lambda: source.read().data, settings), settings


def judged(name: str, read_data: Callable[[], bytes], settings: Settings) -> Reading:
    """Read a text and judge it as a server would that serves a list already.

    Args:
        name: What to call it.
        read_data: Gives its bytes, or raises ``SourceError``.
        settings: How to read it.
    """
    data = b""
    lines: list[str] = []
    rendering = refusal = None
    try:
        data = read_data()
        lines = decode(data).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        rendering = render(data, settings.rules, EMPTY_BODY)
        judge(rendering, settings, serving=True)
    except SourceError as error:
        named = error.code not in {Code.NOT_UTF8, Code.NUL}
        if not named:
            error = SourceError(error.code, f"{name}: {error}", error.line, error.column)
        refusal = error
    return Reading(name, data, lines, rendering, refusal)
