"""HTTP, DNS and TLS for all parts: the client, health checks, commands, etcd and the webhook.

Read ``http`` first (one bounded request, pauses between attempts, and the URLs to which a token
may be sent), then ``connect`` (deadlines, and Happy Eyeballs over the addresses of a host, with
TLS), ``proxies`` (the proxy of a host, and its tunnel as a step of the dial), ``streams`` (a
connected socket for threads and for asyncio), ``_async`` (its connection; the synchronous half is
generated), ``resolver`` (DNS look-ups with a deadline), ``faults`` (the classification of
exceptions; pure), ``threads`` (their start).
"""
