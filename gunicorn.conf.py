"""gunicorn reads this file where it is started; the settings live in the package."""

from mop_config.server.gunicorn_conf import *  # noqa: F403
