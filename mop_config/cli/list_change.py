"""The difference of two lists, endpoint by endpoint."""

from collections.abc import Sequence
from typing import NamedTuple

from ..model import codec
from ..model.endpoint import Endpoint, EndpointConfig, Kind
from .output import say

_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_MEMBERS = {"+": "added", "-": "removed", "~": "changed"}


class EndpointChange(NamedTuple):
    """The difference of one endpoint between two lists.

    Attributes:
        sign: ``-`` (removed), ``+`` (added) or ``~`` (changed priority or server name).
        kind: The kind of the endpoint.
        endpoint: The endpoint, as it is now; a removed endpoint as it was.
        before: A changed endpoint as it was.
    """

    sign: str
    kind: Kind
    endpoint: Endpoint
    before: Endpoint | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the change as an object for ``--json``."""
        before = {"before": _entry(self.kind, self.before)} if self.before else {}
        return {**_entry(self.kind, self.endpoint), **before}


def list_changes(before: EndpointConfig, after: EndpointConfig) -> list[EndpointChange]:
    """Compare two lists: what is removed, added, changed. Their order does not count."""
    changes = []
    for kind in Kind:
        old = {endpoint.url: endpoint for endpoint in before.kinds()[kind]}
        new = {endpoint.url: endpoint for endpoint in after.kinds()[kind]}
        changes += [EndpointChange("-", kind, old[url]) for url in old if url not in new]
        changes += [EndpointChange("+", kind, new[url]) for url in new if url not in old]
        changes += [
            EndpointChange("~", kind, new[url], old[url])
            for url in new
            if url in old and old[url] != new[url]
        ]
    return sorted(changes, key=lambda change: "-+~".index(change.sign))


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


def changes_document(changes: Sequence[EndpointChange]) -> dict[str, object]:
    """Return the changes as the members ``added``, ``removed`` and ``changed`` of a document."""
    return {
        member: [change.as_dict() for change in changes if change.sign == sign]
        for sign, member in _MEMBERS.items()
    }


def _entry(kind: Kind, endpoint: Endpoint) -> dict[str, object]:
    return {"kind": kind, **codec.entry_of(endpoint)}
