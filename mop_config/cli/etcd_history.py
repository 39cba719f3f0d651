"""A key in etcd as its writer sees it: written only if it is as it was, and its past."""

from collections import deque
from contextlib import suppress
from typing import NamedTuple

from ..errors import MopConfigError, SourceError
from ..server.parsing.problems import Code
from ..server.sources.etcd import Etcd, Found, encode
from ..server.sources.etcd_wire import Message, RefusedError

#: Seconds without news after which a key that is not there any more has no later past.
SILENCE = 1.0


class ChangedError(MopConfigError):
    """The key is not what it was when it was compared."""


class Revision(NamedTuple):
    """What happened to a key at one revision of etcd's store.

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
        The revision at which it was written.

    Raises:
        ChangedError: If somebody else has written it since.
        SourceError: If etcd refuses or does not answer; then it may have been written.
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
        return there.revision  # by ourselves: the answer of the first member was lost
    now = f"now at revision {there.revision}" if there else "now not there"
    raise ChangedError(
        f"{etcd} has changed since it was compared ({now}): nothing is written;"
        " look at the difference again, or use --force"
    )


def at(etcd: Etcd, revision: int) -> Found:
    """Give the text that the key had at a revision.

    Raises:
        SourceError: If etcd does not know it (any more), or does not answer.
    """
    found = None
    try:
        found = etcd.get(revision)
    except RefusedError as error:
        if "future revision" in error.message:
            raise SourceError(Code.MISSING, f"{etcd} has no revision {revision} yet") from None
        if "compacted" not in error.message:
            raise
        # What stands at the border of the compaction is still known, by the border's number.
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
    """Give what etcd still knows of the key's past.

    Args:
        etcd: The key.
        limit: How many revisions at most.

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
    """Take in the events from a revision on; give another one to begin with, or 0."""
    with etcd.watch(lambda: False, start) as watch:
        if newest is None:
            watch.idle(SILENCE)
        for message in watch.messages():
            if border := int(message.get("compact_revision", 0)):
                past.clear()
                with suppress(RefusedError):  # compacted once more meanwhile: the watch tells
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
