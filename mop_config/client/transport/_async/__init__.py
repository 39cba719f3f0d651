"""The asyncio half of the transport."""
