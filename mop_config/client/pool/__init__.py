"""The endpoints of a client, and the decision where each request goes.

Read in this order: ``policy`` (the figures), ``target`` and ``member`` (an endpoint and its
record), ``offline`` (no network, or a dead endpoint), ``selection`` and ``pool`` (the choice, and
what outcomes change), ``failover`` (one request as a generator), ``session`` (the lock around
them). Every module but ``session`` is pure: the caller hands in the time and the random numbers.
"""
