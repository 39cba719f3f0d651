"""A disk that is full, for the tests: a small file system in memory."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount 256 KiB on a folder, which is made for it; only root can."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """Let nobody write to the file system that is mounted on a folder."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until there is no room, and none that a scratch file gives back."""
    with path.open("wb", buffering=0) as file:
        attempts = 0
        while attempts < 20:
            try:
                file.write(bytes(4096))
            except OSError:
                attempts += 1
                time.sleep(0.01)
            else:
                attempts = 0
