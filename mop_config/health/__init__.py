"""Health checks, for the client and for the server's monitor.

Read ``state`` first (the state machine of an endpoint's health, and its check times; pure),
then ``probe`` (one check over the wire) and ``jobs`` (the queue of endpoints to check, with a
limit for each server).
"""
