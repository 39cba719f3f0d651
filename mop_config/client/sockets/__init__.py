"""Socket.io clients with failover, on top of python-socketio.

Read in this order: ``search`` (the choice of the endpoint, without I/O), ``sync_link`` and
``sync_client``, then their asyncio twins ``async_link`` and ``async_client``.
"""
