"""The stable path of the packaged gunicorn configuration."""

from .gunicorn.conf import *  # noqa: F403
