"""Health checks, for the client and for the server's monitor.

Read ``state`` first (the state machine of an endpoint's health, and its check times; pure),
then ``probe`` (one check over the wire) and ``jobs`` (checks of many endpoints in threads, with a
limit for each server).
"""
