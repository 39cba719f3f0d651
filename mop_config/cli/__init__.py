"""The command line: one file a command, each parses arguments and calls one function.

Errors are one line on standard error. Exit 0 is good, 1 means that the thing itself is
bad, 2 that the command was called wrongly.
"""

import sys
from collections.abc import Sequence

import click

from .. import __version__
from ..errors import MopConfigError
from .check import check
from .probe import probe
from .serve import serve
from .show import show


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: mop-config check config/endpoints.txt && mop-config serve",
)
@click.version_option(__version__, prog_name="mop-config")
def cli() -> None:
    """Serve a list of endpoints that apps fail over between, and work with such lists."""


for _command in (serve, check, show, probe):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    try:
        result = cli.main(arguments, prog_name="mop-config", standalone_mode=False)
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
    except MopConfigError as error:
        _complain(str(error))
        return 1
    except click.Abort:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python flushes once more at exit.
        sys.stdout = None
        return 1
    return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    print("mop-config:", " ".join(message.split()), file=sys.stderr)
