"""Automatic failover over several domains and IP addresses: the server and the client.

``Settings``, ``create_app``, ``create_asgi_app`` and ``init_app`` are imported on first use, so
that a program that needs only the model or the client never imports Flask.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .model.endpoint import Endpoint, EndpointConfig

if TYPE_CHECKING:
    from .server.settings import Settings
    from .server.web.app import create_app, init_app
    from .server.web.asgi import create_asgi_app

__version__ = "1.0.0"

__all__ = ["Endpoint", "EndpointConfig", "Settings", "create_app", "create_asgi_app", "init_app"]

# A NullHandler leaves the destination of log lines to the application (logging HOWTO).
logging.getLogger(__name__).addHandler(logging.NullHandler())


#: The modules of the names that are imported on first use.
_LAZY = {
    "Settings": "server.settings",
    "create_app": "server.web.app",
    "create_asgi_app": "server.web.asgi",
    "init_app": "server.web.app",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
