"""A full disk for the tests: a small file system in memory."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of 256 KiB on a new folder, which needs root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """Remount the folder's file system read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full and no space that a scratch file frees is left."""
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
