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
        process = self._process = self._process or await self._start()
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101, PT018 - they are pipes
        self._number += 1
        message = json.dumps({"id": self._number, "op": op, **members}) + "\n"
        line = b""
        try:
            async with asyncio.timeout(self._patience + seconds):
                stdin.write(message.encode())
                await stdin.drain()
                line = await stdout.readline()
            answer = json.loads(line or "null")
        except TimeoutError:
            raise self._failed(f"hangs: no answer to {op}") from None
        except ValueError:  # also from a line that is too long
            raise self._failed(f"answers {op} with no JSON: {line[:200]!r}") from None
        except OSError as error:
            raise self._failed(f"died before {op}: {error}") from None
        if not line:
            raise self._failed(f"died at {op}")
        if not isinstance(answer, dict) or answer.get("id") != self._number:
            shown = f"{op} with another id than {self._number}: {line[:200]!r}"
            raise self._failed(f"answers {shown}")
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._errors,
                env=self._environment,
                limit=_LONGEST_LINE,
            )
        except OSError as error:
            raise ClientFailedError(f"cannot be started: {error}") from None

    def _failed(self, what: str) -> ClientFailedError:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL))
        said = self._errors.read().decode(errors="replace").strip()
        return ClientFailedError(f"the client {what}" + (f"\n{said}" if said else ""))

    async def stop(self, grace: float = 0.0) -> None:
        """End the child, with SIGKILL if it still runs after ``grace`` seconds."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
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
