"""gunicorn for ``mop-config serve``, without the current folder on the import path.

gunicorn puts the current folder in front of the import path, to find an application there. Ours
is an installed package, and a module of the same name in that folder would replace a dependency.
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
