"""The asynchronous half of the transport; the synchronous half is generated from it."""
