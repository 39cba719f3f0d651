"""``--env-file``: read the environment of a service from the file that systemd reads for it.

The file is parsed by the quoting rules of systemd's ``EnvironmentFile=``, which differ from a
shell's: no variable is expanded, a quote inside an unquoted value is an ordinary character, and
``export NAME=value`` sets nothing.
"""

import os
import re
import shlex
import shutil
from collections.abc import Iterator

import click

from ..errors import MopConfigError
from .output import complain

#: Maximum size of a file in bytes; the variables of a service need far less.
_MAX_BYTES = 64 << 10
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# One line: a comment, an assignment, or text that is ignored. A value begins with quoted
# pieces, if any; the rest of the value is unquoted, and joined to them.
_LINE = re.compile(
    r"""
    [ \t\r\n]*
    (?: (?P<comment> [#;] [^\r\n]* )
    |   (?P<name> [^=\r\n]+? ) [ \t]* =
        (?P<quoted> (?: [ \t]* (?: '[^']*(?:'|\Z) | "(?:[^"\\]|\\.|\\\Z)*(?:"|\Z) ) )* )
        [ \t]* (?P<bare> (?: [^\\\r\n] | \\. | \\\Z )*? ) [ \t]* (?=[\r\n]|\Z)
    |   (?P<other> [^\r\n]+ )
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(
    r"""'(?P<single>[^']*)(?:'|\Z)|"(?P<double>(?:[^"\\]|\\.|\\\Z)*)(?:"|\Z)""", re.DOTALL
)
_ESCAPE = re.compile(r"\\(.|\Z)", re.DOTALL)
#: In double quotes, a backslash before any other character stays.
_QUOTED_ESCAPE = re.compile(r'\\(["\\`$\n])')


def parse(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Parse the text of an environment file.

    Yields:
        Line, name and value of each assignment. The value is None for a line that is not
        an assignment, and for an invalid name: systemd ignores such lines.
    """
    at = 0
    while (match := _LINE.match(text, at)) is not None and match.end() > at:
        at = match.end()
        found = match["name"] or match["other"]
        if found is not None:
            line = text.count("\n", 0, match.start("name" if match["name"] else "other")) + 1
            good = match["name"] is not None and _NAME.match(found)
            yield line, found, _value(match["quoted"], match["bare"]) if good else None


def _value(quoted: str, bare: str) -> str:
    value = ""
    for piece in _PIECE.finditer(quoted):
        double = piece["double"]
        value += piece["single"] if double is None else _QUOTED_ESCAPE.sub(_character, double)
    # Outside of quotes a backslash escapes any character, and joins lines before a newline.
    return value + _ESCAPE.sub(_character, bare)


def _character(escape: re.Match[str]) -> str:
    """Return the character after a backslash; nothing for the end of a line."""
    return escape[1].strip("\r\n")


def as_root() -> str:
    """Return the command line that runs this command by sudo."""
    arguments: list[str] = click.get_current_context().find_root().obj
    # -E keeps the environment, which sudo removes; with --env-file the file has the settings.
    sudo = "sudo" if "--env-file" in " ".join(arguments) else "sudo -E"
    # The path that sudo searches may lack the folder of this program.
    program = shutil.which("mop-config") or "mop-config"
    return f"{sudo} {shlex.join([program, *arguments])}"


def load(file: str) -> dict[str, str]:
    """Read an environment file, and print on standard error which lines are ignored.

    Raises:
        MopConfigError: If the file cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        hint = f"; run: {as_root()}" if isinstance(error, PermissionError) else ""
        raise MopConfigError(f"{file} cannot be read: {error.strerror}{hint}") from None
    if len(data) > _MAX_BYTES or b"\0" in data:
        raise MopConfigError(f"{file} is no environment file: it is binary or too large")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MopConfigError(f"{file} is not UTF-8 text (line {line})") from None
    values: dict[str, str] = {}
    for line, name, value in parse(text):
        if value is None:
            # Show only the name: the rest of such a line may be a secret.
            shown = name.split("=")[0][:60]
            complain(f"{file}:{line}: {shown!r} is not NAME=value: passed over")
        else:
            values[name] = value
    return values


def _apply(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None and not context.resilient_parsing:
        os.environ.update(load(value))


#: The option ``--env-file``: the file overrides the environment, other options override the file.
env_file_option = click.option(
    "--env-file",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_apply,
    help="Take the settings from a service's environment file, as systemd reads it.",
)
