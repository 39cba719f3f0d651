"""The conformance suite of the failover protocol: vectors, a scripted fleet and a runner.

``python -m conformance -- COMMAND`` tests any client that speaks the line protocol of README.md.
Read in this order: ``vectors`` (the data), ``fleet`` (the scripted endpoints), ``client`` (the
child process), ``play`` (one vector), ``judge`` (expected and observed), ``report`` (TAP, JUnit).
"""

#: The version of the protocol that the vectors describe.
PROTOCOL = "1.0"
