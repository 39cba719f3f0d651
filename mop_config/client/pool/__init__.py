"""The pools of endpoints of a client, which decide where each request goes.

Read in this order: ``policy`` (timeouts and limits), ``member`` (an endpoint and its record),
``offline`` (no network, or a dead endpoint), ``pool`` (the choice, and the record of outcomes),
``failover`` (one request, its hedge and its dial races), ``session`` (the lock around them). Every
module but ``session`` is pure: the caller passes the time and the random numbers.
"""
