"""The synchronous half of the transport, generated from the asynchronous half."""
