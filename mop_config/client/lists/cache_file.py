"""The list on disk, so that an app starts with what it learnt last time.

One JSON file, readable by its owner only, replaced in one step. It never holds a token. A
torn or foreign file is ignored with a warning: the built-in list is there for that.
"""

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from ...files import write_atomically
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
    """What is kept of a list.

    Attributes:
        config: The endpoints.
        origin: How it was learnt: ``remote``, ``qr`` or ``manual``.
        url: Where it came from, or None.
        saved_at: POSIX time at which it was learnt.
        room_id: The room that came with it, or None.
        etags: The tags of remote lists, by URL.
        jws: The signed list as it came, where lists have to be signed; else None.
        beside: Older ones that it was added to, likewise.
        mark: The newest signed list that was ever taken, or None.
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
    """Read the list; None where there is none that can be used."""
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
    """Read a file, opened so that a FIFO cannot hang us, and bounded."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
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
    """Read the mark that stands in a file of its own; None where there is none.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds none.
    """
    try:
        return _maybe_mark(json.loads(_bytes(path, _MAX_MARK_BYTES)))
    except FileNotFoundError:
        return None
    except (TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def save_mark(path: Path, mark: HighWaterMark) -> None:
    """Write the mark; the caller has checked that the file holds no higher mark.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(_mark(mark)).encode(), sync=True)


def _mark(mark: HighWaterMark) -> dict[str, Any]:
    own = {"ver": mark.ver, "sha256": mark.digest, "beside": mark.beside, "kid": mark.kid}
    return {**own, "others": [_mark(other) for other in mark.others]}


def save(path: Path, cached: CachedList) -> None:
    """Write the list so that a crash leaves the old one or the new one.

    Raises:
        OSError: If it cannot be written; the file that was there stays.
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
