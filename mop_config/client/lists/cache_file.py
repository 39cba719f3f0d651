"""The cache file keeps the endpoint list on disk, from which an application restarts.

The JSON file is readable by its owner only and replaced atomically. The file never holds a token.
A damaged or foreign file is ignored with a warning, and the built-in list is used.
"""

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from ...files import open_flags, write_atomically
from ...model import codec
from ...model.endpoint import EndpointConfig
from ...model.jws import MAX_NUMBER
from .trust import HighWaterMark

logger = logging.getLogger(__name__)

_FORMAT = 1
_MAX_BYTES = 64 << 20
_MAX_MARK_BYTES = 65536
_END_OF_TIME = 253402300800  # the first second that ``datetime`` cannot hold


class CachedList(NamedTuple):
    """The contents of the cache file.

    Attributes:
        config: The endpoints.
        origin: The origin of the list: ``remote``, ``qr`` or ``manual``.
        url: The source of the list, or None.
        saved_at: POSIX time at which the list arrived.
        room_id: The room that came with the list, or None.
        etags: The ETags of remote lists, by URL.
        jws: The JWS of the list, if lists have to be signed; else None.
        mark: The mark of the newest signed list that was ever accepted, or None.
        beside: The JWS of each older list to which this list was added.
    """

    config: EndpointConfig
    origin: str
    url: str | None
    saved_at: float
    room_id: str | None
    etags: dict[str, str]
    jws: str | None = None
    mark: HighWaterMark | None = None
    beside: tuple[str, ...] = ()


def load(path: Path) -> CachedList | None:
    """Read the cache file; return None if it is missing, or cannot be used."""
    try:
        document = json.loads(_bytes(path, _MAX_BYTES))
        if not isinstance(document, dict) or "format" not in document:
            raise ValueError("it was not written by mop-config")
        if document["format"] != _FORMAT:
            raise ValueError(f"unknown format {document['format']!r}")
        return CachedList(
            codec.loads(json.dumps(document["list"])),
            _text(document["origin"]),
            _maybe_text(document["url"]),
            _moment(document["saved_at"]),
            _maybe_text(document["room_id"]),
            {_text(url): _text(etag) for url, etag in document["etags"].items()},
            _maybe_text(document.get("jws")),
            _maybe_mark(document.get("mark")),
            _texts(document.get("beside", [])),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        logger.warning("the endpoint list in %s is ignored: %s", path, error)
        return None


def _bytes(path: Path, limit: int) -> bytes:
    """Read a regular file of bounded size; opening a FIFO does not block."""
    flags = os.O_RDONLY | open_flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return data


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{str(value)[:40]!r} is no list")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(each) for each in _list(value))


def _moment(value: Any) -> float:
    # An integer too large for a float would raise an OverflowError.
    if not isinstance(value, (int, float)) or not 0 <= value < _END_OF_TIME:
        raise ValueError(f"{str(value)[:40]!r} is no time")
    return float(value)


def _maybe_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _maybe_mark(value: Any) -> HighWaterMark | None:
    if value is None:
        return None
    ver, digest = value["ver"], value["sha256"]
    if type(ver) is not int or not 0 <= ver <= MAX_NUMBER:
        raise ValueError("its mark is no version")
    others = tuple(filter(None, map(_maybe_mark, _list(value.get("others", [])))))
    kid = _maybe_text(value.get("kid"))
    return HighWaterMark(ver, _text(digest), _texts(value.get("beside", [])), kid, others)


def load_mark(path: Path) -> HighWaterMark | None:
    """Read the mark from the file beside the cache file; return None if the file is missing.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file holds no mark.
    """
    try:
        return _maybe_mark(json.loads(_bytes(path, _MAX_MARK_BYTES)))
    except FileNotFoundError:
        return None
    except (TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def save_mark(path: Path, mark: HighWaterMark) -> None:
    """Write the mark. The caller has checked that the file holds no higher mark.

    Raises:
        OSError: If the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(_mark(mark)).encode(), sync=True)


def _mark(mark: HighWaterMark) -> dict[str, Any]:
    own = {"ver": mark.ver, "sha256": mark.digest, "beside": mark.beside, "kid": mark.kid}
    return {**own, "others": [_mark(other) for other in mark.others]}


def save(path: Path, cached: CachedList) -> None:
    """Write the cache file atomically: a crash leaves the old file or the new file.

    Raises:
        OSError: If the file cannot be written; the old file stays.
    """
    document = {
        "format": _FORMAT,
        "list": json.loads(codec.dumps(cached.config)),
        "origin": cached.origin,
        "url": cached.url,
        "saved_at": cached.saved_at,
        "room_id": cached.room_id,
        "etags": cached.etags,
    }
    if cached.jws is not None:
        document["jws"] = cached.jws
        document["beside"] = cached.beside
    if cached.mark is not None:
        document["mark"] = _mark(cached.mark)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(document).encode(), sync=True)
