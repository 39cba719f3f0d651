"""The httpx2 transports that send a request to the endpoint that the pool names."""
