"""The command line: ``python -m conformance [options] -- COMMAND``."""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

try:
    from .client import ClientProcess
    from .fleet import Authority
    from .play import Player
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install trustme") from None
from .report import Reporter, write_junit
from .vectors import PROFILES, Vector, load


def main(arguments: list[str] | None = None) -> int:
    """Run the vectors against a client; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("the client's command is missing: python -m conformance -- COMMAND")
    if min(options.jobs, options.slack, options.patience) <= 0:
        parser.error("--jobs, --slack and --patience must be more than 0")
    vectors = [
        each
        for each in load()
        if options.profile in {None, each.profile}
        and (not options.only or any(text in each.title for text in options.only))
    ]
    if not vectors:
        parser.error("no vector has such a name")
    if options.junit and not options.junit.absolute().parent.is_dir():
        parser.error(f"--junit: there is no folder {options.junit.parent}")
    began = time.monotonic()
    reporter = Reporter(len(vectors), tap=options.tap or not sys.stdout.isatty())
    asyncio.run(_run(vectors, command, options, reporter))
    reporter.close(time.monotonic() - began)
    if options.junit:
        write_junit(options.junit, reporter.results)
    return 1 if reporter.counts["failed"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance",
        description="Tests a client of the failover protocol against a scripted fleet.",
        epilog="Example: python -m conformance --profile minimal -- node client.mjs",
    )
    add = parser.add_argument
    add("--only", action="append", default=[], metavar="TEXT", help="vectors whose name holds TEXT")
    add("--profile", choices=PROFILES, help="the vectors of one profile only")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="clients at a time")
    add("--slack", type=float, default=3.0, help="factor for upper bounds of time")
    add("--patience", type=float, default=20.0, help="seconds until a client hangs")
    add("--tap", action="store_true", help="TAP on a terminal too")
    add("--junit", type=Path, metavar="FILE", help="write JUnit XML as well")
    add("command", nargs=argparse.REMAINDER, help="the client and its arguments, after --")
    return parser


async def _run(
    vectors: list[Vector], command: list[str], options: argparse.Namespace, reporter: Reporter
) -> None:
    waiting = deque(vectors)
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        authority = Authority(Path(name))

        async def work() -> None:
            client = ClientProcess(command, authority.environment(), options.patience)
            player = Player(authority, client, options.slack)
            try:
                while waiting:
                    reporter.add(await player.play(waiting.popleft()))
            finally:
                await client.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(options.jobs, len(vectors))):
                group.create_task(work())


if __name__ == "__main__":
    sys.exit(main())
