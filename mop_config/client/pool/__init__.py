"""The endpoints of a client and the decisions about a request. Pure, but for ``session``."""
