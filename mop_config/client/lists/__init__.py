"""The client's endpoint list: its sources, validation, signatures and cache.

Read in this order: ``cache_file`` (the list on disk), ``trust`` (signed lists), ``rules`` (the pure
rules for built-in and remote lists, and the token for their sources), ``endpoint_lists`` (every
change of the list in use).
"""
