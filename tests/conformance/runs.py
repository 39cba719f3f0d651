"""Run the suite in a process of its own, as a user does."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PYTHON_CLIENT = (sys.executable, "-m", "conformance.python_client")


@dataclass(frozen=True)
class Run:
    """One run of the suite, in TAP.

    Attributes:
        status: The exit status.
        output: Standard output.
        errors: Standard error.
    """

    status: int
    output: str
    errors: str

    def named(self, word: str) -> set[str]:
        """Return the titles of the vectors that are ``ok`` or ``not ok``, without skipped ones."""
        return {
            line.partition(" - ")[2].partition(" # SKIP")[0]
            for line in self.output.splitlines()
            if line.startswith(f"{word} ") and (" # SKIP" not in line)
        }

    @property
    def skipped(self) -> int:
        """The number of vectors that the client does not support."""
        return self.output.count(" # SKIP not supported")


def run(client: Sequence[str], *options: str, seconds: float = 400) -> Run:
    """Run the vectors against a client."""
    command = [sys.executable, "-m", "conformance", *options, "--", *client]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )
    return Run(done.returncode, done.stdout, done.stderr)


def mutant(name: str, *options: str) -> Run:
    """Run vectors against a client with one fault."""
    return run((sys.executable, "-m", "tests.conformance.mutants", name), *options)
