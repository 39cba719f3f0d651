"""What every caller of the network shares: client, health checks, commands and the monitor.

Read ``http`` first (pauses between attempts, and where tokens may be sent; pure), then
``resolver`` (DNS look-ups with a deadline), ``tls`` (contexts), ``connect`` (Happy Eyeballs over
the addresses of a host) and ``faults`` (what an exception says about an endpoint; pure).
"""
