"""Print the difference of two lists, endpoint by endpoint."""

from collections.abc import Sequence

from ..model.codec import EndpointChange, endpoint_changes, entry_of
from ..model.endpoint import EndpointConfig, Kind
from .output import say

_COLOURS = {"-": "red", "+": "green", "~": "yellow"}
_MEMBERS = {"-": "removed", "+": "added", "~": "changed"}


def list_changes(before: EndpointConfig, after: EndpointConfig) -> list[EndpointChange]:
    """Compare two lists: first what is removed, then what is added, then what is changed."""
    changes = [
        change
        for kind in Kind
        for change in endpoint_changes(kind, before.kinds()[kind], after.kinds()[kind])
    ]
    return sorted(changes, key=lambda change: list(_MEMBERS).index(change.sign))


def print_changes(changes: Sequence[EndpointChange], prefix: str = "") -> None:
    """Print one line for each change, with a colour on a terminal.

    Args:
        changes: The changes; without any, only the order of the list has changed.
        prefix: A text before each change.
    """
    for sign, kind, endpoint, before in changes:
        was = f" (was {before.line.partition(' ')[2]})" if before else ""
        say(prefix, nl=False)
        say(f"{sign} {kind} {endpoint.line}{was}", fg=_COLOURS[sign])
    if not changes:
        say(f"{prefix}~ the order changed")


def changes_document(changes: Sequence[EndpointChange]) -> dict[str, list[dict[str, object]]]:
    """Return the changes as the members ``added``, ``removed`` and ``changed`` of a document."""
    document: dict[str, list[dict[str, object]]] = {name: [] for name in _MEMBERS.values()}
    for sign, kind, endpoint, before in changes:
        entry = {"kind": kind, **entry_of(endpoint)}
        if before is not None:
            entry["before"] = {"kind": kind, **entry_of(before)}
        document[_MEMBERS[sign]].append(entry)
    return document
