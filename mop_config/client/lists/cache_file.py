"""The cache file keeps the endpoint list on disk, from which an application restarts.

The JSON file is readable by its owner only and replaced atomically. The file never holds a token.
A damaged or foreign file is ignored with a warning, and the built-in list is used.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from ...files import write_atomically
from ...model.endpoint import EndpointConfig, check_room_id, config_of, dumps

logger = logging.getLogger(__name__)

_FORMAT = 2
#: What ``json.loads`` and the checks of its result raise for a damaged file.
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class CachedList(NamedTuple):
    """The contents of the cache file.

    Attributes:
        origin: The origin of the list: ``remote``, ``qr`` or ``manual``.
        url: The source of the list, or None.
        saved_at: POSIX time at which the list arrived; None for a built-in list.
        room_id: The room that came with the list, or None.
        etags: The ETags of remote lists, by URL.
        jws: If lists have to be signed, the JWS of the list, after the older lists to which this
            list was added.
        config: The endpoints.
    """

    origin: str
    url: str | None = None
    saved_at: float | None = None
    room_id: str | None = None
    etags: Mapping[str, str] = {}
    jws: tuple[str, ...] = ()
    config: EndpointConfig = EndpointConfig()


def cache_path(path: str | Path | None, app: str | None) -> Path | None:
    """Return the path of the cache file of an application; None for no file.

    Raises:
        ValueError: If the application's name is empty, since all such applications would share a
            file.
    """
    if path is not None or app is None:
        return None if path is None else Path(path)
    if not str(app).strip(". "):
        raise ValueError(f"app must be the name of an application, not {app!r}")
    try:
        folder = platformdirs.user_cache_path(app)
    except (RuntimeError, KeyError, OSError):
        folder = Path()
    if folder.is_absolute():
        return folder / "endpoints.json"
    logger.warning("the endpoint list is not kept: this user has no home")
    return None


def load(path: Path) -> CachedList | None:
    """Read the cache file; return None if it is missing, or cannot be used."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")  # such as /dev/null, or a FIFO, which waits
        document = json.loads(path.read_bytes())
        if document.pop("format", None) != _FORMAT:
            raise ValueError("it was not written by this version of mop-config")
        lists = {"config": config_of(document["config"]), "jws": tuple(document["jws"])}
        cached = CachedList(**document | lists)
        _check_types(cached)
        return cached
    except FileNotFoundError:
        return None
    except (OSError, *DAMAGED) as error:
        logger.warning("the endpoint list in %s is ignored: %s", path, reason_of(error))
        return None


def _check_types(cached: CachedList) -> None:
    """Check the members that are not parts of a list.

    Raises:
        ValueError: If one of them is not as ``save`` writes it.
    """
    check_room_id(cached.room_id)
    texts = (cached.origin, cached.url or "", *cached.jws, *cached.etags)
    fits = isinstance(cached.saved_at, float | int | None)
    if not fits or not all(isinstance(text, str) for text in texts):
        raise ValueError("a member is of a wrong type")
    if not all(is_etag(etag) for etag in cached.etags.values()):
        raise ValueError("an ETag is damaged")


def is_etag(value: Any) -> bool:
    """Whether a value can be sent as an ETag."""
    return isinstance(value, str) and value.isascii() and value.isprintable()


def reason_of(error: Exception) -> str:
    """Return why a file is ignored; the words of most exceptions mean nothing to a reader."""
    return str(error) if isinstance(error, (OSError, ValueError)) else "it is damaged"


def save(path: Path, cached: CachedList) -> None:
    """Write the cache file atomically: a crash leaves the old file or the new file.

    Raises:
        OSError: If the file cannot be written; the old file stays.
    """
    config = json.loads(dumps(cached.config))
    write(path, {**cached._asdict(), "format": _FORMAT, "config": config})


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document atomically; create its folder for this user only.

    Raises:
        OSError: If the file cannot be written; the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(document).encode(), sync=True)
