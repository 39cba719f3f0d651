"""The description of the HTTP interface, OpenAPI 3.1. Pure."""

from .document import document

__all__ = ["document"]
