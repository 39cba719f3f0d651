"""Run a program as on Windows: without ``fcntl``, ``resource``, ``pwd``, ``select.poll`` and more.

``python -m tests.posixless MODULE [ARGUMENTS]`` runs a module with these names hidden from
mop_config; other packages keep them, since the standard library's own modules for POSIX need them.
"""

import asyncio
import builtins
import os
import runpy
import select
import signal
import sys
from typing import Any

import httpx2
import platformdirs

HIDDEN = {"fcntl", "resource", "pwd", "grp", "termios"}
NAMES = ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_NOFOLLOW", "O_DIRECTORY", "fchmod", "fchown")
OWNERS = ("getuid", "geteuid", "getgid", "getegid")

_import = builtins.__import__


def _hide(name: str, importer: Any = None, *rest: Any, **more: Any) -> Any:
    module = (importer or {}).get("__name__", "")
    if name in HIDDEN and module.startswith("mop_config"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _import(name, importer, *rest, **more)


def hide() -> None:
    """Hide the modules and names from this call on."""
    for package in (asyncio, httpx2, platformdirs):
        assert package.__name__ in sys.modules  # their own POSIX imports are done
    builtins.__import__ = _hide  # type: ignore[assignment]
    for name in (*NAMES, *OWNERS):
        delattr(os, name)
    for name in [name for name in vars(select) if name.lower().startswith(("poll", "epoll"))]:
        delattr(select, name)
    del signal.SIGHUP


if __name__ == "__main__":
    hide()
    module = sys.argv[1]
    sys.argv[:] = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
