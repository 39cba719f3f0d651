"""The server under gunicorn: configuration, hooks, worker limits, logger and error pages."""
