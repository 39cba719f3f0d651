"""The endpoint list as data: addresses, endpoints, the wire JSON, signed lists and keys. Pure."""

from .endpoint import Endpoint, EndpointConfig

__all__ = ["Endpoint", "EndpointConfig"]
