"""Which of mop-config's gunicorn hooks have not run, and what is lost without them.

A configuration file that imports everything from ours and defines a hook replaces our hook of that
name. Each of our hooks notes that it has run; a fork inherits the notes of the master.
"""

import os

_ran: set[str] = set()

REMEDY = (
    "start it with 'mop-config serve', or an application of your own with"
    " 'gunicorn -c python:mop_config.server.gunicorn_conf', or begin a configuration of your own"
    " with 'from mop_config.server.gunicorn_conf import *', and call or inherit ours in your hooks"
)
_HOOKS = {"on_starting", "worker_class"}
_LOST = (
    "SIGHUP ends or replaces workers instead of reloading in place, each worker counts its metrics"
    " for itself, or edits are followed from its first request on"
)


def note(name: str) -> None:
    """Note that one of our hooks has run."""
    _ran.add(name)


def notice() -> str:
    """Return what is lost in this process; empty if nothing is lost, or without gunicorn."""
    missing = ", ".join(sorted(_HOOKS - _ran))
    # gunicorn sets this variable in its master.
    if not missing or "gunicorn" not in os.environ.get("SERVER_SOFTWARE", ""):
        return ""
    return f"gunicorn runs without mop-config's hooks ({missing}): {_LOST}; {REMEDY}"
