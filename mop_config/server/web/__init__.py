"""The HTTP interface as a Flask application; the only package that imports Flask.

Read ``app`` first: it builds the application and registers the routes. ``views`` and
``dashboard`` hold the views.
"""

from flask import Flask

#: Import name of the Flask application of ``create_app``, which decides its instance folder.
PACKAGE = "mop_config"


def instance_folder() -> str:
    """Return the default of ``ENDPOINT_STATE_DIR``: the instance folder of ``create_app``'s Flask.

    gunicorn's master and ``mop-config publish`` need the path without an application.
    """
    return Flask(PACKAGE).instance_path
