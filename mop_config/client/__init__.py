"""The client: a pool of endpoints, their health, and requests that move to another one.

It needs the extra ``client``. Nothing here imports Flask; the Socket.io clients are
imported when they are used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import UpdateFailed, UpdateRefused, UpdateUntrusted

_EXTRA = {"aiohttp", "httpcore2", "httpx2", "platformdirs", "requests", "socketio"}


def _missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Say which extra to install, where that is the reason."""
    if (error.name or "").partition(".")[0] not in _EXTRA:
        return error
    message = "mop_config.client needs the extra 'client': pip install 'mop-config[client]'"
    return ModuleNotFoundError(message, name=error.name)


try:
    from .async_manager import AsyncEndpointManager
    from .lists.cache import ListSource
    from .manager import EndpointManager
    from .pool.member import EndpointState
    from .pool.policy import Policy
    from .transport._async.transport import AsyncFailoverTransport
    from .transport._sync.transport import FailoverTransport
    from .transport.exceptions import NoEndpointAvailable
except ModuleNotFoundError as _error:
    raise _missing(_error) from None

if TYPE_CHECKING:
    from .sockets.async_client import AsyncFailoverSocketClient
    from .sockets.sync_client import FailoverSocketClient

_LAZY = {
    "AsyncFailoverSocketClient": ".sockets.async_client",
    "FailoverSocketClient": ".sockets.sync_client",
}

__all__ = [
    "AsyncEndpointManager",
    "AsyncFailoverSocketClient",
    "AsyncFailoverTransport",
    "EndpointManager",
    "EndpointState",
    "FailoverSocketClient",
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
        raise _missing(error) from None
    return getattr(module, name)
