"""The client under test: a child process that answers one JSON object per line."""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Sequence
from typing import Any

#: Bytes from the end of the child's standard error that a failure shows.
_TAIL = 2000
#: Maximum length of an answer line in bytes.
_LONGEST_LINE = 1 << 24


class ClientFailedError(Exception):
    """The client exited, gave no answer in time, or printed an invalid answer."""


class ClientProcess:
    """The client's process, which the first ``ask`` starts.

    Args:
        command: The program and its arguments.
        environment: Variables that are added to this process's environment.
        patience: Seconds for each answer, in addition to the operation's own time.
    """

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], patience: float
    ) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}
        self._patience = patience
        self._process: asyncio.subprocess.Process | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._number = 0

    async def ask(self, op: str, members: dict[str, Any], seconds: float = 0.0) -> dict[str, Any]:
        """Send one operation, and return its answer.

        Args:
            op: Name of the operation.
            members: The other members of the message.
            seconds: The operation's own time limit.

        Raises:
            ClientFailedError: If no valid answer arrives in time.
        """
        process = await self._start()
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        self._number += 1
        line = json.dumps({"id": self._number, "op": op, **members}) + "\n"
        try:
            async with asyncio.timeout(self._patience + seconds):
                process.stdin.write(line.encode())
                await process.stdin.drain()
                answer = await process.stdout.readline()
        except TimeoutError:
            raise self._failed(f"hangs: no answer to {op}") from None
        except ValueError:
            raise self._failed(f"answers {op} with an endless line") from None
        except OSError as error:
            raise self._failed(f"died before {op}: {error}") from None
        if not answer:
            raise self._failed(f"died at {op}")
        return self._parsed(op, answer)

    def _parsed(self, op: str, line: bytes) -> dict[str, Any]:
        shown = line[:200]
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._failed(f"answers {op} with no JSON: {shown!r}") from None
        if not isinstance(answer, dict) or answer.get("id") != self._number:
            raise self._failed(f"answers {op} with another id than {self._number}: {shown!r}")
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        if self._process is None:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=self._errors,
                    env=self._environment,
                    limit=_LONGEST_LINE,
                )
            except OSError as error:
                raise ClientFailedError(f"cannot be started: {error}") from None
        return self._process

    def _failed(self, what: str) -> ClientFailedError:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL))
        said = self._errors.read().decode(errors="replace").strip()
        return ClientFailedError(f"the client {what}" + (f"\n{said}" if said else ""))

    async def stop(self, grace: float = 0.0) -> None:
        """End the child, with SIGKILL if it still runs after ``grace`` seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await process.wait()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # Process.kill() may reap the child, whose exit asyncio's watcher would then miss.
                os.kill(process.pid, signal.SIGKILL)
        await process.communicate()

    async def close(self) -> None:
        """End the child, and delete the file with its standard error."""
        await self.stop(grace=2.0)
        self._errors.close()
