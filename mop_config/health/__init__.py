"""Health checks, for the client and for the server's monitor.

Read ``state`` first (when an endpoint counts as unhealthy, and when it is checked next; pure),
then ``probe`` (one check over the wire) and ``jobs`` (the queue of endpoints to check, with a
limit for each server).
"""
