"""The vectors, loaded from JSON files; each vector is one test of a client."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vectors"
#: The optional parts that a client may declare without the full profile.
OPTIONAL = ("signed", "race", "hedge")
PROFILES = ("minimal", *OPTIONAL, "full")


@dataclass(frozen=True)
class Vector:
    """One test: a fleet, the client's configuration, and steps with their expectations.

    Attributes:
        suite: Name of the file without its suffix.
        name: The behaviour that the vector tests; unique within its file.
        profile: ``minimal``, ``full``, or the optional part that the client must declare.
        section: Section of ``docs/protocol.md`` that requires the behaviour.
        policy: The times and figures of the policy that ``init`` carries.
        init: The other members of ``init``.
        fleet: The endpoints by letter; see ``fleet.py``.
        steps: The operations, each with its expectation.
    """

    suite: str
    name: str
    profile: str
    section: str
    policy: dict[str, Any]
    fleet: dict[str, Any]
    steps: list[dict[str, Any]]
    init: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The suite and the name, which ``--only`` searches."""
        return f"{self.suite}: {self.name}"

    def is_supported(self, profile: str, optional: Iterable[str]) -> bool:
        """Return whether a client that declares this profile must pass the vector."""
        return profile == "full" or self.profile == "minimal" or self.profile in optional


def load(folder: Path = FOLDER) -> list[Vector]:
    """Load all vectors of the folder, in the order of the files' names."""
    found = []
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        for each in document["vectors"]:
            given = {"profile": "full", "section": document["section"], **each}
            given["policy"] = {**document.get("policy", {}), **each.get("policy", {})}
            found.append(Vector(suite=path.stem, **given))
    return found
