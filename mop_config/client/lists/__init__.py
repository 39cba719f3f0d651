"""The client's endpoint list: its sources, validation, signatures and cache.

Read in this order: ``normalize`` and ``bootstrap`` (remote and built-in lists),
``token``, ``trust`` (signed lists), ``update`` (the pure decision about a remote list),
``cache_file`` and ``cache`` (the list on disk), ``endpoint_lists`` (the public part).
"""
