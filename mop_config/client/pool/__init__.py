"""The pools of endpoints of a client, which decide where each request goes.

Read in this order: ``policy`` (timeouts and limits), ``target`` and ``member`` (an endpoint and its
record), ``offline`` (no network, or a dead endpoint), ``selection`` and ``pool`` (the choice, and
the record of outcomes), ``failover`` (one request as a generator), ``session`` (the lock around
them). Every module but ``session`` is pure: the caller passes the time and the random numbers.
"""
