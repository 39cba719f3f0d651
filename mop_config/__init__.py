"""Automatic failover over several domains and IP addresses: the server and the client.

``create_app`` and ``init_app`` are handed on lazily, so that a program which only
wants the model or the client never imports Flask.
"""

from typing import TYPE_CHECKING, Any

from .model import Endpoint, EndpointConfig

if TYPE_CHECKING:
    from .server.app import create_app, init_app

__version__ = "1.0.0"

__all__ = ["Endpoint", "EndpointConfig", "__version__", "create_app", "init_app"]


def __getattr__(name: str) -> Any:
    if name in {"create_app", "init_app"}:
        from .server import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
