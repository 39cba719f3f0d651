"""A key in etcd: write it in a compare-and-set transaction, and read its earlier revisions."""

from collections import deque
from contextlib import suppress
from typing import NamedTuple

from ..errors import MopConfigError, SourceError
from ..server.parsing.problems import Code
from ..server.sources.etcd import Etcd, Found, encode
from ..server.sources.etcd_gateway import Message, RefusedError

#: Seconds without an event after which the watch of a deleted key has delivered everything.
SILENCE = 1.0


class ChangedError(MopConfigError):
    """The key was written by another client since it was compared."""


class Revision(NamedTuple):
    """One change of a key: a revision of etcd's store, and the text that was written.

    Attributes:
        number: The revision.
        data: The text that was written, or None where the key was deleted.
    """

    number: int
    data: bytes | None


def write(etcd: Etcd, data: bytes, expected: int | None) -> int:
    """Write the key in one transaction.

    Args:
        etcd: The key.
        data: The text.
        expected: The revision at which the key must have been written last, 0 for a key that
            must not be there; None writes in any case.

    Returns:
        The revision of the write.

    Raises:
        ChangedError: If another client has written the key since.
        SourceError: If etcd refuses, or does not answer: then the key may have been written.
    """
    compare = {"key": etcd.key, "target": "MOD", "result": "EQUAL", "mod_revision": str(expected)}
    put = {"request_put": {"key": etcd.key, "value": encode(data)}}
    try:
        answer = etcd.ask(
            "/kv/txn", {"compare": [] if expected is None else [compare], "success": [put]}
        )
    except SourceError as error:
        if error.code != Code.UNREACHABLE:
            raise
        raise SourceError(error.code, f"{error}; it may have been written all the same") from None
    if answer.get("succeeded"):
        return int(answer["header"]["revision"])
    there = etcd.get()
    if there is not None and there.data == data:
        return there.revision  # our own write: the response of the first member was lost
    now = f"now at revision {there.revision}" if there else "now not there"
    raise ChangedError(
        f"{etcd} has changed since it was compared ({now}): nothing is written;"
        " look at the difference again, or use --force"
    )


def at(etcd: Etcd, revision: int) -> Found:
    """Return the text that the key had at a revision.

    Raises:
        SourceError: If etcd does not have the revision (any more), or does not answer.
    """
    found = None
    try:
        found = etcd.get(revision)
    except RefusedError as error:
        if "future revision" in error.message:
            raise SourceError(Code.MISSING, f"{etcd} has no revision {revision} yet") from None
        if "compacted" not in error.message:
            raise
        # The newest compacted text is still there, under the number of the compaction.
        found = etcd.get(_border(etcd, revision))
        if found is None or found.revision != revision:
            message = f"revision {revision} was compacted: etcd does not know it any more"
            raise SourceError(Code.MISSING, message) from None
    if found is None:
        raise SourceError(Code.MISSING, f"{etcd} was not there at revision {revision}")
    return found


def _border(etcd: Etcd, revision: int) -> int:
    with etcd.watch(lambda: False, revision) as watch:
        for message in watch.messages():
            if border := int(message.get("compact_revision", 0)):
                return border
    raise SourceError(Code.UNREACHABLE, f"{etcd}: etcd does not say what it has compacted")


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
            watch.end_after(SILENCE)
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
