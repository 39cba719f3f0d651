"""The synchronous modules match the asynchronous modules from which a script generates them."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "unasync.py"


def test_the_generated_modules_are_up_to_date() -> None:
    """The generated modules are up to date; if not, run ``scripts/unasync.py``."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
