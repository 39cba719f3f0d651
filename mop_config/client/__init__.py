"""The client: a pool of endpoints, their health checks, and requests that fail over.

No module of the client imports Flask. The Socket.io clients need the extra ``socketio``, so they
are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, UpdateFailed, UpdateRefused, UpdateUntrusted
from .async_manager import AsyncEndpointManager
from .lists.endpoint_lists import ListSource
from .pool.member import EndpointState
from .pool.policy import Policy
from .sync_manager import EndpointManager
from .transport._async.transport import AsyncFailoverTransport
from .transport._sync.transport import FailoverTransport
from .transport.outcome import NoEndpointAvailable

if TYPE_CHECKING:
    from .sockets.async_client import AsyncFailoverSocketClient as AsyncFailoverSocketClient
    from .sockets.sync_client import FailoverSocketClient as FailoverSocketClient

_LAZY = {
    "AsyncFailoverSocketClient": ".sockets.async_client",
    "FailoverSocketClient": ".sockets.sync_client",
}

# Without the Socket.io clients, so that ``import *`` needs no extra.
__all__ = [
    "AsyncEndpointManager",
    "AsyncFailoverTransport",
    "EndpointManager",
    "EndpointState",
    "FailoverTransport",
    "ListSource",
    "NoEndpointAvailable",
    "Policy",
    "UpdateFailed",
    "UpdateRefused",
    "UpdateUntrusted",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY[name], __name__)
    except ModuleNotFoundError as error:
        raise MissingExtra("the Socket.io client", "socketio") from error
    return getattr(module, name)
