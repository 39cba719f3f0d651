"""Connections to a server, direct or by a proxy."""

from ..connect import DialGroup, DialOptions, HostDial, Owner, ServerAddress
from ..resolver import Resolver
from ..streams import AsyncStream


async def connect(
    server: ServerAddress, options: DialOptions, resolver: Resolver, owner: Owner
) -> AsyncStream:
    """Connect to the first address of a host that is ready.

    Args:
        server: The server.
        options: The limits and options of each dial.
        resolver: Resolves the host.
        owner: Object that may abort the connection from another thread.

    Raises:
        OSError: If no address was ready in time; a ``socket.gaierror`` if the host has no address.
    """
    with DialGroup() as group:
        HostDial(group, server, options, resolver)
        while not owner.aborted:
            for dial in group.finished():
                if dial.error is not None:
                    raise dial.error
                return AsyncStream(dial.socket, owner)
            await AsyncStream.wait_for(group, group.pause())
    raise ConnectionAbortedError("called off")
