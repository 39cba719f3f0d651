"""The endpoint list as data; every module here is pure: no clock, thread, socket or file.

Read ``address`` first (hosts, ports and URLs), then ``endpoint`` (``Endpoint``,
``EndpointConfig``, ``Kind`` and their JSON), and ``jws`` (Ed25519 keys and signed lists).
"""
