"""gunicorn's logger with our line format, for our own messages too."""

import logging
from typing import Any

from gunicorn.glogging import Logger

from .logs import LineFormatter


class GunicornLogger(Logger):  # type: ignore[misc]
    """Writes one line an event; ``--log-level``, ``--error-logfile`` and syslog work as ever."""

    def setup(self, cfg: Any) -> None:
        """Set gunicorn's handlers up, then share the error log's with our logger."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(LineFormatter())
        ours = logging.getLogger("mop_config")
        ours.handlers[:] = self.error_log.handlers
        ours.setLevel(self.error_log.level)
        ours.propagate = False
