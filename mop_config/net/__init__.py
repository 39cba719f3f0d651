"""HTTP, DNS and TLS for all parts: the client, health checks, commands, etcd and the webhook.

Read ``http`` first (one bounded request, pauses between attempts, and the URLs to which a token
may be sent), then ``connection`` (httpcore over one stream), ``_async`` (streams and proxies; the
synchronous half is generated), ``connect`` (Happy Eyeballs over the addresses of a host),
``resolver`` (DNS look-ups with a deadline), ``tls`` (contexts), ``faults`` (the classification of
exceptions; pure).
"""
