"""The earlier revisions of a key in etcd, from which a test reads the order of the texts."""

from collections import deque
from contextlib import suppress
from typing import NamedTuple

from mop_config.errors import SourceError
from mop_config.server.parsing.problems import Code
from mop_config.server.sources.etcd import Etcd, Found
from mop_config.server.sources.etcd_gateway import Message, RefusedError


class Revision(NamedTuple):
    """One change of a key: a revision of etcd's store, and the text that was written.

    Attributes:
        number: The revision.
        data: The text that was written, or None where the key was deleted.
    """

    number: int
    data: bytes | None


def history(etcd: Etcd, limit: int) -> list[Revision]:
    """Return the revisions of the key that etcd has not compacted.

    Args:
        etcd: The key.
        limit: Maximum number of revisions.

    Returns:
        The newest revisions, oldest first.

    Raises:
        SourceError: If etcd refuses or does not answer.
    """
    newest = etcd.get()
    past: deque[Revision] = deque(maxlen=limit)
    start = 1
    while start:
        start = _collect(etcd, start, newest, past)
    return list(past)


def _collect(etcd: Etcd, start: int, newest: Found | None, past: deque[Revision]) -> int:
    """Add the events from a revision on to ``past``; return the revision to restart at, or 0."""
    with etcd.watch(lambda: False, start) as watch:
        if newest is None:
            watch.end_after(1.0)
        for message in watch.messages():
            if border := int(message.get("compact_revision", 0)):
                past.clear()
                with suppress(RefusedError):  # compacted again meanwhile: the next watch reports it
                    _add(past, etcd.get(border))
                if newest is not None and past and past[-1].number >= newest.revision:
                    return 0
                return border + 1
            for event in message.get("events", []):
                past.append(_revision(etcd, event))
            if newest is not None and past and past[-1].number >= newest.revision:
                return 0
    if newest is not None:
        raise SourceError(Code.UNREACHABLE, f"{etcd}: etcd does not tell the key's past")
    return 0


def _add(past: deque[Revision], found: Found | None) -> None:
    if found is not None:
        past.append(Revision(found.revision, found.data))


def _revision(etcd: Etcd, event: Message) -> Revision:
    if event.get("type") == "DELETE":
        return Revision(int(event["kv"]["mod_revision"]), None)
    found = etcd.found(event["kv"])
    return Revision(found.revision, found.data)
