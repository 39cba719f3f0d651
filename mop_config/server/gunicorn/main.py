"""gunicorn as ``mop-config serve`` runs it: no module is imported from the current folder.

gunicorn puts the current folder in front of the import path, so that it finds an application
there. Ours is an installed package; anything in the folder would only get in its way.
"""

import os

from gunicorn.app.wsgiapp import WSGIApplication


class Gunicorn(WSGIApplication):  # type: ignore[misc]
    """gunicorn, less the current folder on the import path."""

    def chdir(self) -> None:
        """Change to the folder of ``--chdir``, and leave the import path alone."""
        os.chdir(self.cfg.chdir)


if __name__ == "__main__":
    Gunicorn("%(prog)s [OPTIONS] [APP_MODULE]", prog="mop-config serve").run()
