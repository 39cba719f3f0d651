"""The server's parts for gunicorn; this is the only package that imports gunicorn.

Read ``conf`` first (the configuration file), then ``hooks`` (signals and the life of master and
workers), ``worker`` and ``logger``. ``main`` is what ``mop-config serve`` runs.
"""
