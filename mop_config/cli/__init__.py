"""The command line: one file a command, each parses arguments and calls one function.

Errors are one line on standard error. Exit 0 is good, 1 means that the thing itself is
bad, 2 that the command was called wrongly.
"""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from .. import __version__
from ..errors import MopConfigError

#: Each stands in the module of its name.
COMMANDS = (
    *("serve", "check", "show", "status", "probe", "qr", "watch", "reload", "publish", "push"),
    *("keygen", "sign", "verify", "token"),
)


class _Commands(click.Group):
    """Imports a command when it is called: scripts call often, and do without the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: mop-config check config/endpoints.txt && mop-config serve",
)
@click.version_option(__version__, prog_name="mop-config")
def cli() -> None:
    """Serve a list of endpoints that apps fail over between, and work with such lists."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    _prepare_streams()
    try:
        result = cli.main(arguments, prog_name="mop-config", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "mop-config"
        _complain(f"{error.format_message()} (see {command} --help)")
        return 2
    except click.ClickException as error:
        _complain(error.format_message())
        return 1
    except click.Abort:
        return 130
    except BrokenPipeError:
        _forget_output()  # whoever read it has seen enough
        return 1
    except MopConfigError as error:
        _complain(str(error))
        return 1
    except Exception as error:
        _forget_output()
        if _interrupted(error):
            return 130
        _complain(_in_words(error))
        return 1
    return result if isinstance(result, int) else 0


def _prepare_streams() -> None:
    """Have somewhere to write to, and no character that cannot be written."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    # Python flushes once more at exit, which would fail once more.
    sys.stdout = None


def _interrupted(error: BaseException) -> bool:
    """Whether it came of Ctrl-C, which may leave a lock in disorder that is then let go."""
    while error.__context__ is not None:
        error = error.__context__
    return isinstance(error, KeyboardInterrupt)


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return f"unexpected {type(error).__name__}: {error}"


def _complain(message: str) -> None:
    # Imported when it is needed: what few commands need, the others do without.
    from ..model.printable import printable

    print("mop-config:", printable(" ".join(message.split())), file=sys.stderr)
