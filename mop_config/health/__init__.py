"""Health checks, for the client and for the server's monitor.

Read ``state`` first (the state machine of an endpoint's health, and its check times; pure),
then ``probe`` (checks over the wire, with a limit of those of one server).
"""
