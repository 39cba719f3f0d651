"""Socket.io clients with failover, on top of python-socketio.

Read in this order: ``search`` (the choice of the endpoint, without I/O), then ``async_client``,
from which ``sync_client`` is generated; ``with_asyncio`` and ``with_threads`` have the sessions.
"""
