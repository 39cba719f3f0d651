"""The command line: each command has a module, which parses arguments and calls the other packages.

Read ``input``, ``server_api`` and ``output`` first: the commands share these modules. ``history``,
``rollback`` and ``push`` share ``texts`` too.

An error is one line on standard error. Exit code 0 means success, 1 that the file, the list or
the server is bad, 2 that the command was called wrongly.
"""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

import click

from .. import __version__
from ..errors import MopConfigError
from .output import complain

#: The modules that commands share.
_SHARED = frozenset({"input", "output", "server_api", "texts"})
#: The names of the commands: every other module has a command, a function of the module's name.
COMMANDS = sorted({module.name for module in iter_modules(__path__)} - _SHARED)


class _Commands(click.Group):
    """A click group that imports a command only on its call, so that scripts start quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Example: mop-config check config/endpoints.txt && mop-config serve",
)
@click.version_option(__version__, prog_name="mop-config")
def cli() -> None:
    """Serve a list of endpoints that apps fail over between, and work with such lists."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    _prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for number, word in enumerate(words, 1):
            # An empty argument usually comes from an unset variable of a script.
            if not word or (word.startswith("--") and word.endswith("=")):
                where = word or f"after {['mop-config', *words][number - 1]}"
                raise click.UsageError(f"argument {number} ({where}) must not be empty")
        result = cli.main(words, prog_name="mop-config", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "mop-config"
        complain(f"{error.format_message()} (see {command} --help)")
        return 2
    except (click.ClickException, MopConfigError) as error:
        complain(error)
        return 1
    except click.Abort:
        return 130
    except Exception as error:
        # Without this, Python would flush the output again at exit, and fail again.
        sys.stdout = None
        if isinstance(error, BrokenPipeError):
            return 1  # the reader has closed the pipe
        if isinstance(error, OSError) and error.strerror:
            place = f": {error.filename}" if error.filename else ""
            complain(f"{error.strerror}{place}")
        else:
            complain(f"unexpected {type(error).__name__}: {error}")
        return 1
    return result if isinstance(result, int) else 0


def _prepare_streams() -> None:
    """Replace closed output streams by the null device, and escape unencodable characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the exit
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
