"""What commands take: a service's environment, seconds, and the list of a file, a key or a server.

The file of ``--env-file`` is read by the quoting rules of systemd's ``EnvironmentFile=``, which
differ from a shell's: no variable is expanded, and a quote inside a plain value is an ordinary
character. What systemd would join (a continued line, a value of several quoted pieces) or pass
over (``export NAME=value``) is an error. A list is judged by the server's rules.
"""

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import click

from ..errors import AddressError, MopConfigError, SourceError
from ..model.address import EtcdAddress
from ..model.endpoint import EndpointConfig, Kind, read_own
from ..server.parsing.problems import Code, Problem
from ..server.parsing.render import (
    EMPTY,
    EMPTY_BODY,
    Rendering,
    check_acceptable,
    decode,
    render,
    with_planned_refusals,
)
from ..server.settings import Settings
from ..server.sources import SCHEME, open_source
from .output import complain
from .server_api import fetch, is_url, read_file, read_token

#: Maximum size of a file in bytes; the variables of a service need far less.
_MAX_ENVIRONMENT = 64 << 10
#: The name of a line (group 1), and its value in double quotes (2), in single quotes (3) or
#: plain (4).
_ASSIGNMENT = re.compile(
    r"""\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"""
    r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^"'\\\s][^\\]*?)?)\s*"""
)
#: In double quotes, a backslash before any other character stays.
_QUOTED_ESCAPE = re.compile(r'\\(["\\`$])')


def parse_environment(file: str, text: str) -> dict[str, str]:
    """Parse the text of an environment file.

    Raises:
        MopConfigError: If a line is no assignment, or its value is written in another way.
    """
    values = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            # Show only the name: the rest of such a line may be a secret.
            shown = line.partition("=")[0].strip()[:60]
            rule = "NAME=value on one line, without a backslash or quoted as a whole"
            raise MopConfigError(f"{file}:{number}: {shown!r} is not {rule}")
        name, double, single, plain = match.groups()
        if double is not None:
            values[name] = _QUOTED_ESCAPE.sub(r"\1", double)
        else:
            values[name] = single or plain or ""
    return values


def _load_environment(context: click.Context, _: click.Parameter, file: str | None) -> None:
    """Read an environment file into the environment of this process.

    Raises:
        MopConfigError: If the file cannot be read or used.
    """
    if file is None or context.resilient_parsing:
        return
    data = read_file(file, _MAX_ENVIRONMENT + 1)
    text = data.decode(errors="replace")
    if len(data) > _MAX_ENVIRONMENT or "\0" in text or "\ufffd" in text:
        raise MopConfigError(f"{file} is no environment file: it is too large or not UTF-8 text")
    os.environ.update(parse_environment(file, text))


#: The option ``--env-file``: the file overrides the environment, other options override the file.
env_file_option = click.option(
    "--env-file",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_load_environment,
    help="Take the settings from a service's environment file, as systemd reads it.",
)


class _Seconds(click.FloatRange):
    name = "seconds"

    def convert(self, value: Any, *about: Any) -> float:
        seconds: float = super().convert(value, *about)
        if seconds != seconds:  # FloatRange admits NaN
            self.fail(f"{value} is no number of seconds", *about)
        return seconds


#: The option type for seconds: more than 0, at most a day.
SECONDS = _Seconds(0, min_open=True, max=86400)


class Reading(NamedTuple):
    """A text, parsed and judged by the server's rules.

    Attributes:
        path: Name of the file or key, as given by the user.
        settings: The settings by which the text was judged.
        mtime: POSIX seconds of the last change of the file or key; 0 if it cannot be read.
        lines: The lines, empty if the text cannot be read or is not text.
        rendering: The rendered text, with the refusal as its first error; empty without lines.
        refusal: The error that refuses the whole text, or None.
        config: The list.
    """

    path: str
    settings: Settings
    mtime: float
    lines: list[str]
    rendering: Rendering
    refusal: SourceError | None
    config: EndpointConfig


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
        message = f"{error.value!r} is not etcd://host:2379[,host:2379]/key ({error.message})"
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
    mtime = 0.0
    lines: list[str] = []
    rendering, refusal = EMPTY, None
    try:
        data, mtime = read_text()
        lines = decode(data).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        rendering = render(data, settings.rules, EMPTY_BODY, time.time())
        rendering = with_planned_refusals(rendering, settings)
        # Assume a server that serves endpoints of the kinds in the text; of both, if it has none.
        served = {kind: rendering.count(kind) for kind in Kind}
        if not rendering.usable:
            served = dict.fromkeys(Kind, 1)
        check_acceptable(rendering, settings, served)
    except SourceError as error:
        code, refusal = Code(error.code), error
        if code in {Code.NOT_UTF8, Code.NUL}:
            refusal = SourceError(code, f"{name}: {error}", error.line, error.column)
        problem = Problem.of(code, str(refusal), error.line, error.column)
        rendering = rendering._replace(
            problems=(problem, *rendering.problems), errors=rendering.errors + 1
        )
    config = read_own(rendering.body)
    return Reading(name, settings, mtime, lines, rendering, refusal, config)


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
        # Not the refusal's own message, which mentions the list of a server.
        raise MopConfigError(f"{reading.path} has no usable endpoint")
    if reading.refusal is not None:
        raise reading.refusal
    if not quiet:
        warn(reading.settings, reading.rendering.problems)
    return reading.config
