"""The server's parts for gunicorn; this is the only package that imports gunicorn.

Read ``worker`` first, then ``protocol`` and ``logger``. The configuration file with the hooks of
the master is ``server/gunicorn_conf.py``, and ``main`` is what ``mop-config serve`` runs.
"""
