"""gunicorn for ``mop-config serve``, without the current folder on the import path.

gunicorn puts the current folder in front of the import path, to find an application there. Our
application is an installed package, and a module in that folder could shadow a dependency.
"""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until gunicorn has its own handler, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from gunicorn.app.wsgiapp import WSGIApplication


class Gunicorn(WSGIApplication):  # type: ignore[misc]
    """gunicorn that does not add the current folder to the import path."""

    def chdir(self) -> None:
        """Change to the folder of ``--chdir`` without changing the import path."""
        os.chdir(self.cfg.chdir)


if __name__ == "__main__":
    Gunicorn("%(prog)s [OPTIONS] [APP_MODULE]", prog="mop-config serve").run()
