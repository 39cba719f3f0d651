"""The difference of two lists, endpoint by endpoint. Pure."""

from dataclasses import dataclass, field

import click

from ..model import codec
from ..model.endpoint import Endpoint, EndpointConfig, Kind

Member = tuple[str, Endpoint]
_COLOURS = {"+": "green", "-": "red", "~": "yellow"}


@dataclass(frozen=True, slots=True)
class ListChange:
    """The difference between two lists, endpoint by endpoint.

    Attributes:
        added: Kind (``api`` or ``socketio``) and endpoint.
        removed: Kind and endpoint.
        changed: Kind, the endpoint before, and the endpoint now, which differ in priority or
            server name.
    """

    added: list[Member] = field(default_factory=list)
    removed: list[Member] = field(default_factory=list)
    changed: list[tuple[str, Endpoint, Endpoint]] = field(default_factory=list)

    @classmethod
    def between(cls, before: EndpointConfig, after: EndpointConfig) -> "ListChange":
        """Compare two lists. Lists that differ only in their order have an empty difference."""
        change = cls()
        for kind in Kind:
            old = {endpoint.url: endpoint for endpoint in before.kinds()[kind]}
            new = {endpoint.url: endpoint for endpoint in after.kinds()[kind]}
            change.removed.extend((kind, e) for url, e in old.items() if url not in new)
            change.added.extend((kind, e) for url, e in new.items() if url not in old)
            change.changed.extend(
                (kind, old[url], e) for url, e in new.items() if url in old and old[url] != e
            )
        return change

    def lines(self) -> list[str]:
        """Return one line for each endpoint: removed (-), added (+) or changed (~)."""
        return [
            *(f"- {kind} {e.line}" for kind, e in self.removed),
            *(f"+ {kind} {e.line}" for kind, e in self.added),
            *(
                f"~ {kind} {now.line} (was {was.line.partition(' ')[2]})"
                for kind, was, now in self.changed
            ),
        ]

    def as_dict(self) -> dict[str, object]:
        """Return the difference as an object for ``--json``."""
        return {
            "added": [_entry(kind, e) for kind, e in self.added],
            "removed": [_entry(kind, e) for kind, e in self.removed],
            "changed": [
                {**_entry(kind, now), "before": _entry(kind, was)}
                for kind, was, now in self.changed
            ],
        }


def colour_of_change(line: str) -> str:
    """Return a line of ``ListChange.lines`` with its colour for a terminal."""
    return click.style(line, fg=_COLOURS[line.strip()[0]])


def _entry(kind: str, endpoint: Endpoint) -> dict[str, object]:
    return {"kind": kind, **codec.entry_of(endpoint)}
