"""The client's endpoint list: its sources, validation, signatures and cache.

Read in this order: ``normalize`` (built-in and remote lists), ``cache_file`` (the list on disk),
``trust`` (signed lists), ``update`` (the pure decision about a remote list, and the token for its
sources), ``endpoint_lists`` (the public part).
"""
