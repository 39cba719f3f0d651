"""StaticExporter: publish the list as files for a static web server.

The files have the paths of the routes, so that a mirror answers like a server, except for long
polls.
"""

import json
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ... import __version__, qr
from ...errors import QrTooLong, SourceError
from ...model.jws import jwk_set
from ..parsing.problems import Code
from ..parsing.render import EMPTY
from ..reload.pipeline import Reloader
from ..reload.thread import ReloadThread
from ..serving import signer
from ..serving.snapshot import Snapshot
from ..serving.store import ServerState, SnapshotStore, SourceState
from ..settings import Settings
from ..sources import check_source, open_source
from ..state import workers
from ..state.directory import StateDirectory, owner_of
from ..state.releases import ReleaseStore
from .public_folder import write

logger = logging.getLogger(__name__)

_CONFIG = "api/v1/config"
#: Every file that may be written, by its path, with its ``Content-Type``.
TYPES = {
    f"{_CONFIG}/endpoints": "application/json",
    f"{_CONFIG}/endpoints.gz": "application/json",
    f"{_CONFIG}/endpoints.jws": "application/jose",
    f"{_CONFIG}/keys": "application/jwk-set+json",
    f"{_CONFIG}/qr.svg": "image/svg+xml",
    f"{_CONFIG}/qr.png": "image/png",
    f"{_CONFIG}/qr.json": "application/json",
    "api/v1/health": "application/json",
    "health": "application/json",
}
#: Without a key these files stay, because they may have been signed elsewhere.
_SIGNED = frozenset({f"{_CONFIG}/endpoints.jws", f"{_CONFIG}/keys"})
_EMPTY = "there is no usable endpoint (ENDPOINT_ALLOW_EMPTY=1 would allow it)"
_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}


class StaticExporter:
    """Publishes one source into one folder.

    It shares the state folder with a server on this machine, so that both give the same date and
    version to a list.

    Args:
        settings: The source and the signing key.
        folder: The folder that the files are written to.
        state_folder: Folder of the last good list and its release, unless the settings name it.
        clock: Returns POSIX seconds.

    Raises:
        SettingsError: If the key or the source cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        state_folder: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        signer.check(settings)
        check_source(settings)
        self._settings = settings
        self._folder = folder
        source, now = open_source(settings), time.time()
        state = settings.state_dir or state_folder
        directory = StateDirectory.of_user(state, owner_of(state))
        directory.prepare()
        key = workers.key(str(source))
        releases = ReleaseStore(directory, key)
        self._store = SnapshotStore(
            Snapshot.of(EMPTY, last_modified=int(now), loaded_at=now, max_age=settings.max_age)
        )
        self._reloader = Reloader(source, settings, self._store, releases)
        self._signer = signer.Signer(settings, clock)
        self._made: tuple[Snapshot, Snapshot | None] | None = None
        self._files: dict[str, bytes] = {}  # made from ``_made``
        self._complained = False

    def publish(self) -> tuple[list[str], ServerState]:
        """Publish the source as it is now.

        Returns:
            The paths of the files that have changed, and the state after reading the source.

        Raises:
            SourceError: If the text is refused; no file has changed then.
            OSError: If a file cannot be written.
        """
        self._reloader.start()
        view = self._store.view
        if view.state is not SourceState.FRESH:
            code = view.problems[0].code if view.problems else Code.UNREADABLE
            raise SourceError(code, view.reason or "there is no list to publish")
        if not self._may_publish():
            raise SourceError(Code.NO_ENDPOINTS, _EMPTY)
        return self._write(), view

    def follow(self) -> signal.Signals:
        """Publish every change of the source, until SIGTERM or Ctrl-C.

        A text that is refused changes nothing; the log says why. Writing to the folder is retried,
        and files that somebody else has changed are written again. SIGHUP reads the source at once.

        Returns:
            The signal that ended the process.
        """
        # The threads inherit the mask, and leave these signals to this thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._reloader.start(may_wait=True)
        thread = ReloadThread(self._reloader, self._settings.poll_interval, self._turn)
        thread.start()
        try:
            while (number := signal.sigwait(_SIGNALS)) == signal.SIGHUP:
                thread.hup()
        finally:
            thread.stop()
        return signal.Signals(number)

    def _turn(self) -> None:
        if not self._may_publish():
            if self._store.view.loaded:
                self._complain(f"not published: {_EMPTY}")
            return
        try:
            changed = self._write()
        except OSError as error:
            self._complain(f"cannot be published: {error.filename}: {error.strerror}")
            return
        self._complained = False
        if changed:
            logger.info("published %s", ", ".join(changed))

    def _complain(self, message: str) -> None:
        if not self._complained:
            logger.error("%s", message)
        self._complained = True

    def _may_publish(self) -> bool:
        # A server that has served nothing may begin with an empty list, but the folder may hold a
        # list from an earlier run, which an empty list must not replace.
        view = self._store.view
        usable = view.snapshot.api_count + view.snapshot.socketio_count
        return view.loaded and (usable > 0 or self._settings.allow_empty)

    def _write(self) -> list[str]:
        """Bring the folder up to date, and return the paths of the files that have changed."""
        snapshot = self._store.view.snapshot
        signed = self._signer.signed(snapshot)
        if self._made != (snapshot, signed):
            key = self._signer.key
            keys = None if key is None else json.dumps(jwk_set([key])).encode()
            self._files = render_files(snapshot, signed, keys, self._settings.service_name)
            self._made = snapshot, signed
        return write(self._folder, self._files, TYPES.keys() - _SIGNED)


def render_files(
    snapshot: Snapshot, signed: Snapshot | None, keys: bytes | None, service: str
) -> dict[str, bytes]:
    """Return the content of each file by its path.

    Args:
        snapshot: The list.
        signed: The signed list, or None without a key.
        keys: The JWKS of the public keys, or None without a key.
        service: ``service`` in the health check.
    """
    health = {"status": "healthy", "service": service, "version": __version__}
    body = json.dumps(health, separators=(",", ":")).encode() + b"\n"
    shortlist = qr.Shortlist.of_body(snapshot.plain.body)
    try:
        text = qr.fit(shortlist).text if shortlist else None
    except QrTooLong:
        text = None
    found = {
        f"{_CONFIG}/endpoints": snapshot.plain.body,
        f"{_CONFIG}/endpoints.gz": snapshot.gzip.body if snapshot.gzip else None,
        f"{_CONFIG}/endpoints.jws": signed.plain.body if signed else None,
        f"{_CONFIG}/keys": keys,
        f"{_CONFIG}/qr.svg": qr.image(text, "svg") if text else None,
        f"{_CONFIG}/qr.png": qr.image(text, "png") if text else None,
        f"{_CONFIG}/qr.json": text.encode() if text else None,
        "api/v1/health": body,
        "health": body,
    }
    return {name: data for name, data in found.items() if data is not None}
