"""Socket.io clients that connect to the endpoint that the pool names."""
