"""The synchronous half of the transport."""
