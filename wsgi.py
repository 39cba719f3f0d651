"""For any WSGI server: ``gunicorn wsgi:app``, ``waitress-serve wsgi:app``."""

from mop_config.server.web.app import create_app_or_exit

app = create_app_or_exit()
