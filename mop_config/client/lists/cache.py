"""``ListCache``: the origin, ETags and room of the list, and the file that keeps the list."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import platformdirs

from ...errors import SignatureError
from ...files import locked
from ...model.endpoint import EndpointConfig
from . import cache_file
from .cache_file import CachedList
from .normalize import normalized, without_added_plain
from .trust import HighWaterMark, Trust

logger = logging.getLogger(__name__)

#: Seconds to wait for the flock of the cache file; after that, the next turn saves the list.
_LOCK_TIMEOUT = 0.1


def cache_path(path: str | Path | None, app: str | None) -> Path | None:
    """Return the path of the cache file of an application; None for no file."""
    if path is not None:
        return Path(path)
    if app is None:
        return None
    try:
        folder = platformdirs.user_cache_path(app)
    except (RuntimeError, KeyError, OSError) as error:
        logger.warning("the endpoint list is not kept: this user has no home (%s)", error)
        return None
    if not folder.is_absolute():
        logger.warning("the endpoint list is not kept: this user has no home")
        return None
    return folder / "endpoints.json"


class ListSource(NamedTuple):
    """Where the list in use came from.

    Attributes:
        origin: ``cache``, ``seed``, ``remote``, ``qr``, ``manual`` or ``none``.
        url: The server that sent the list, or None.
        age: Seconds since the list arrived, or None for a built-in list.
        stale: Whether the list has expired, and no source has a newer list.
    """

    origin: str
    url: str | None
    age: float | None
    stale: bool = False


class ListCache:
    """The origin of the list, and its cache file.

    Args:
        path: The file, or None.
        trust: Verifies the list of the file, or None if lists need not be signed.

    Attributes:
        path: The file, or None.
        room_id: The room of the last QR code that named a room, or None.
        etags: The ETags of remote lists that are the same as the list in use, by URL.
        refusal: Why the list of the file is not trusted, or None.
    """

    def __init__(self, path: Path | None, trust: Trust | None = None) -> None:
        self.path = path
        # The mark has its own file, so that it survives a lost or restored cache file.
        self._mark_path = None if path is None else path.with_name(f"{path.name}.mark")
        self._trust = trust
        self._mark_warned = False
        self._save_failed = False  # whether the last write failed
        if trust is not None and self._mark_path is not None:
            trust.share(self._read_mark)
        self.refusal: SignatureError | None = None
        self._source = ListSource("none", None, None)
        self._learnt_at: float | None = None
        self._unsaved = False
        self._save_lock = threading.Lock()
        self.room_id: str | None = None
        self.etags: dict[str, str] = {}

    def load(self) -> EndpointConfig:
        """Read the cache file and return its list; an empty list if the file has none."""
        mark = None
        if self._trust is not None:
            mark = self._read_mark()
            self._trust.remember(mark)
        cached = None if self.path is None else cache_file.load(self.path)
        if cached is None:
            return EndpointConfig()
        self.room_id = cached.room_id
        config = cached.config
        if self._trust is not None:
            self._trust.remember(cached.mark)
            config = self._verified(self._trust, cached, mark or cached.mark) if config else config
        config = normalized(config, str(self.path))
        if config:
            self.etags = dict(cached.etags)
            self._source, self._learnt_at = ListSource("cache", cached.url, None), cached.saved_at
        return config

    def _read_mark(self) -> HighWaterMark | None:
        """Read the mark from its file: another process may have written a higher mark."""
        if self._mark_path is None:
            return None
        try:
            return cache_file.load_mark(self._mark_path)
        except (OSError, ValueError) as error:
            if not self._mark_warned:
                logger.warning("the mark in %s is ignored: %s", self._mark_path, error)
            self._mark_warned = True
            return None

    def _verified(
        self, trust: Trust, cached: CachedList, mark: HighWaterMark | None
    ) -> EndpointConfig:
        """Return the signed endpoints of a cached list; an empty list if it is not trusted."""
        try:
            if cached.jws is None:
                raise SignatureError("not-signed", "it is not a signed list")
            trust.recall(cached.jws, cached.beside, mark)
        except SignatureError as error:
            self.refusal = error
        return without_added_plain(trust.config(), cached.config)

    def set_source(
        self, origin: str, url: str | None = None, learnt_at: float | None = None
    ) -> None:
        """Set the origin of the list; ``learnt_at`` is a POSIX time."""
        self._source, self._learnt_at = ListSource(origin, url, None), learnt_at

    @property
    def source(self) -> ListSource:
        """The origin and the age of the list."""
        age = None if self._learnt_at is None else max(0.0, time.time() - self._learnt_at)
        stale = self._trust is not None and self._trust.stale
        return self._source._replace(age=age, stale=stale)

    def mark_unsaved(self) -> None:
        """Mark the list as newer than the file."""
        self._unsaved = True

    def reset_after_fork(self) -> None:
        """Replace the locks in a child process: a thread may have held the parent's locks."""
        self._save_lock = threading.Lock()
        if self._trust is not None:
            self._trust.reset_after_fork()

    def save(self, config: Callable[[], EndpointConfig]) -> None:
        """Write the list to the file, if the list has changed since it was written."""
        if not self._unsaved:
            return
        with self._save_lock:
            if not self._unsaved:
                return
            self._unsaved = False
            if self.path is None:
                return
            kept = CachedList(
                config(),
                self._source.origin,
                self._source.url,
                self._learnt_at or time.time(),
                self.room_id,
                {url: etag for url, etag in self.etags.items() if "?" not in url},
            )
            try:
                if self._trust is None or self._mark_path is None:
                    cache_file.save(self.path, kept)
                else:
                    with locked(self.path.with_name(f"{self.path.name}.lock"), _LOCK_TIMEOUT):
                        self._save_signed(self.path, self._mark_path, self._trust, kept)
                self._save_failed = False
            except BlockingIOError:
                self._unsaved = True
            except OSError as error:
                self._unsaved = True  # retry on the next turn: a full disk may be freed
                if not self._save_failed:
                    logger.warning("the endpoint list cannot be kept in %s: %s", self.path, error)
                self._save_failed = True

    def _save_signed(self, path: Path, mark_path: Path, trust: Trust, kept: CachedList) -> None:
        """Write the signed list before the mark, so that the list is not older than the mark."""
        there, mark = self._read_mark(), trust.mark
        counting = trust.counting(there)
        if counting is not None and mark is not None and counting.ver > mark.ver:
            return  # another process accepted a newer list
        trust.remember(there)  # keep the lower marks of other keys
        mark = trust.mark
        if trust.current is None:
            # Keep no unsigned list: the next start would refuse it.
            kept = kept._replace(config=EndpointConfig(), mark=mark)
        else:
            beside = tuple(older.text for older in trust.beside)
            kept = kept._replace(jws=trust.current.text, mark=mark, beside=beside)
        cache_file.save(path, kept)
        if mark is not None and mark != there:
            cache_file.save_mark(mark_path, mark)
