"""What is remembered of the list besides its endpoints, and the file that keeps all of it."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import platformdirs

from ..model import EndpointConfig
from . import cache
from .cache import CachedList
from .state import ListSource

logger = logging.getLogger(__name__)


def cache_path(path: str | Path | None, app: str | None) -> Path | None:
    """Say where the list of an application is kept; None for nowhere."""
    if path is not None:
        return Path(path)
    return None if app is None else platformdirs.user_cache_path(app) / "endpoints.json"


class Kept:
    """Where the list came from, and its file.

    Args:
        path: The file, or None.

    Attributes:
        room_id: The room that came with the last QR code that named one, or None.
        etags: The tags of remote lists that are the same as ours, by URL.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._source = ListSource("none", None, None)
        self._learnt_at: float | None = None
        self._unsaved = False
        self._saving = threading.Lock()
        self.room_id: str | None = None
        self.etags: dict[str, str] = {}

    def load(self) -> EndpointConfig:
        """Take in what the file holds, and give its list; an empty one where it has none."""
        cached = None if self._path is None else cache.load(self._path)
        if cached is None:
            return EndpointConfig()
        self.room_id = cached.room_id
        if cached.config:
            self.etags = dict(cached.etags)
            self._source, self._learnt_at = ListSource("cache", cached.url, None), cached.saved_at
        return cached.config

    def note(self, origin: str, url: str | None = None, learnt_at: float | None = None) -> None:
        """Note where the list came from; ``learnt_at`` is a POSIX time."""
        self._source, self._learnt_at = ListSource(origin, url, None), learnt_at

    @property
    def source(self) -> ListSource:
        """Where the list came from, and how old it is."""
        age = None if self._learnt_at is None else max(0.0, time.time() - self._learnt_at)
        return self._source._replace(age=age)

    def changed(self) -> None:
        """Note that the file is behind."""
        self._unsaved = True

    def forked(self) -> None:
        """Start anew in a child process: the parent may have been in the midst of saving."""
        self._saving = threading.Lock()

    def save(self, config: Callable[[], EndpointConfig]) -> None:
        """Write the list, if there is a file and it is behind."""
        if not self._unsaved:
            return
        with self._saving:
            if not self._unsaved:
                return
            self._unsaved = False
            if self._path is None:
                return
            kept = CachedList(
                config(),
                self._source.origin,
                self._source.url,
                self._learnt_at or time.time(),
                self.room_id,
                dict(self.etags),
            )
            try:
                cache.save(self._path, kept)
            except OSError as error:
                logger.warning("the endpoint list cannot be kept in %s: %s", self._path, error)
