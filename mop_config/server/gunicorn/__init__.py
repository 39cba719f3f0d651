"""The server's parts for gunicorn; this is the only package that imports gunicorn.

Read ``hooks`` first (the life of the master), then ``worker``, ``asgi_worker`` with ``protocol``,
and ``logger``. The configuration file is ``server/gunicorn_conf.py``, and ``main`` is what
``mop-config serve`` runs.
"""
