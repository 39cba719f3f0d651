"""Reads the earlier good texts, which the service keeps in its state folder."""

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from ..errors import MopConfigError
from ..server.parsing.render import EMPTY_BODY, render, render_body
from ..server.reload.guard import Replaced, missing_confirmations
from ..server.settings import Settings
from ..server.sources import open_source
from ..server.state.directory import StateDirectory
from ..server.state.releases import LastGood, ReleaseStore
from ..server.state.workers import WORKER, WorkerRecord, WorkerRegistry, key, place
from .env_file import as_root

_RECORDS = re.compile(r"records-([0-9]+)\Z")
#: Form of a release in an argument: a version, or the beginning of an ETag.
_RELEASE = re.compile(r"[0-9a-f]{4,}")


def is_release(word: str) -> bool:
    """Return whether an argument can name a release; a path can always begin with ``./``."""
    return _RELEASE.fullmatch(word.strip('"')) is not None


class GoodTexts(NamedTuple):
    """The good texts of one source, and the records of the workers that serve it.

    Attributes:
        source: Name of the source.
        texts: The texts, newest first; never empty.
        directory: The folder with the records of the service's user.
    """

    source: str
    texts: list[LastGood]
    directory: StateDirectory

    @classmethod
    def of(cls, settings: Settings) -> "GoodTexts":
        """Read the texts of the source that the settings name.

        Raises:
            MopConfigError: If there are no texts, or this user may not read the texts.
        """
        source = str(open_source(settings))
        folder = _state_folder(settings)
        found = []
        for user in _users(folder):
            directory = StateDirectory.of_user(folder, user)
            if texts := ReleaseStore(directory, key(source)).history():
                found.append(cls(source, texts, directory))
        if not found:
            raise MopConfigError(
                f"{folder} holds no good text of {source}: the service may read another source,"
                " or keep its state in another folder (ENDPOINT_STATE_DIR, --env-file FILE)"
            )
        return max(found, key=lambda kept: kept.texts[0].saved_at)

    def confirmed(self, data: bytes, settings: Settings) -> tuple[bytes, list[str]]:
        """Add the confirming lines that a text needs for the endpoints that it removes.

        Args:
            data: The text, which will replace the list that is served.
            settings: The settings of the service.

        Returns:
            The text, and the lines that were added at its end.
        """
        served = ReleaseStore(self.directory, key(self.source)).load() or self.texts[0]
        body = render_body(served.data, settings.rules, served.boundary)
        replaced = Replaced({}, served.data, body)
        rendering = render(data, settings.rules, EMPTY_BODY, time.time())
        added: list[str] = []
        # Repeat, because a confirming line that the served text has too counts only as an addition.
        while lines := missing_confirmations(rendering, settings, data, replaced):
            data = b"\n".join([data.removesuffix(b"\n"), *map(str.encode, lines), b""])
            added += lines
        return data, added

    def find(self, release: str) -> LastGood:
        """Return the newest text of a release.

        Args:
            release: The version of the release, or the beginning of its ETag.

        Raises:
            MopConfigError: If no text or more than one list matches.
        """
        wanted = release.strip('"').lower()
        meant: dict[str, LastGood] = {}
        for text in reversed(self.texts):
            there = text.release
            if str(there.version) == wanted:
                return text
            if is_release(wanted) and there.etag.startswith(wanted):
                meant[there.etag] = text
        if len(meant) > 1:
            raise MopConfigError(f"{release} may mean {' or '.join(meant)}: name more of the ETag")
        if not meant:
            raise MopConfigError(
                f"there is no good text of release {release} (mop-config history lists"
                f" {len(self.texts)}; RELEASE is a version, or 4 characters or more of an ETag)"
            )
        return meant.popitem()[1]

    def workers(self) -> list[WorkerRecord]:
        """Return the records of the running workers that serve the source, with any settings."""
        names = self.directory.names()
        prefixes = {name.partition(WORKER)[0] for name in names if WORKER in name}
        return [
            worker
            for prefix in sorted(prefixes)
            if prefix.startswith(f"{key(self.source)}.") and prefix.endswith(f".{place()}")
            for worker in WorkerRegistry(self.directory, prefix).others(os.getpid())
        ]


def _state_folder(settings: Settings) -> Path:
    if settings.state_dir:
        return Path(os.path.abspath(settings.state_dir))
    from ..server.web import instance_folder  # imports Flask

    return Path(instance_folder())


def _users(folder: Path) -> list[int]:
    """Return the users whose records this user may read: the user itself, or every user for root.

    Raises:
        MopConfigError: If the folder is missing, or this user may not read its records.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise MopConfigError(
            f"the state folder {folder} is not there; name that of the service by"
            " ENDPOINT_STATE_DIR or --env-file FILE"
        ) from None
    except PermissionError:
        raise MopConfigError(
            f"this user may not read the state folder {folder}; run: {as_root()}"
        ) from None
    users = [int(match[1]) for match in map(_RECORDS.match, names) if match]
    allowed = [user for user in users if os.geteuid() in {0, user}]
    if users and not allowed:
        raise MopConfigError(f"the records in {folder} belong to another user; run: {as_root()}")
    return allowed
