"""The served list as a signed one: made once for each list and each half of its life.

Nothing in it depends on who signs: every worker, and every node that has the key and the list
with the same version, gives the same bytes.
"""

import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from ...errors import MissingExtra, SettingsError, SigningKeyError
from ...files import open_flags
from ...model.jws import MEDIA_TYPE, SigningKey
from ..settings import Settings
from .snapshot import Snapshot, Variant

logger = logging.getLogger(__name__)

_VARIABLE = "ENDPOINT_SIGNING_KEY_FILE"
_MAX_KEY_BYTES = 65536


def read_key(path: str) -> tuple[SigningKey, tuple[str, ...]]:
    """Read the key that lists are signed with, and what is odd about its file.

    Raises:
        SettingsError: If it cannot be used.
    """
    try:
        with open(os.open(path, os.O_RDONLY | open_flags("O_NONBLOCK", "O_CLOEXEC")), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SigningKeyError("it is no regular file")
            key = SigningKey.read(file.read(_MAX_KEY_BYTES))
    except MissingExtra as error:
        raise SettingsError(_VARIABLE, path, f"left empty, since {error}") from None
    except (SigningKeyError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        allowed = f"a file with an Ed25519 private key, as JWK or PEM ({reason})"
        raise SettingsError(_VARIABLE, path, allowed) from None
    if status.st_mode & stat.S_IROTH:
        mode = stat.S_IMODE(status.st_mode)
        return key, (f"{_VARIABLE}={path!r} can be read by everybody (mode {mode:04o})",)
    return key, ()


def check(settings: Settings) -> None:
    """Refuse a key that cannot be used, before anything is started.

    Raises:
        SettingsError: If there is one, and it cannot be used.
    """
    if settings.signing_key_file is not None:
        read_key(settings.signing_key_file)


class _Held(NamedTuple):
    """What was signed last, and for what."""

    snapshot: Snapshot
    period: int
    signed: Snapshot


class Signer:
    """Signs what is served, if there is a key to sign with.

    A key that has gone bad since the start must not keep a worker from serving: it says so,
    and serves the list unsigned.

    Args:
        settings: Where the key is, and how long a signed list holds.
        clock: Gives POSIX seconds.

    Attributes:
        key: The key, or None.
        warnings: What is odd about it.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._ttl = int(settings.signing_ttl)
        self._half = self._ttl // 2
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._wanted = settings.signing_key_file is not None
        self.key: SigningKey | None = None
        self.warnings: tuple[str, ...] = ()
        if settings.signing_key_file is None:
            return
        try:
            self.key, self.warnings = read_key(settings.signing_key_file)
        except SettingsError as error:
            self.warnings = (f"lists are not signed: {error}",)

    def refusal(self, snapshot: Snapshot) -> tuple[int, str] | None:
        """Say why a list is not to be had signed: a status code and the reason; else None."""
        if not self._wanted:
            return 404, f"lists are not signed here: {_VARIABLE} is not set"
        if self.key is None:
            return 503, "the signing key cannot be used; the server's log says why"
        if not snapshot.api_count + snapshot.socketio_count:
            return 503, "there is no list to sign: an empty one is served"
        return None

    def signed(self, snapshot: Snapshot) -> Snapshot | None:
        """Give a list signed; None where there is a refusal."""
        if self.refusal(snapshot) is not None:
            return None
        period = self._period()
        held = self._held
        if held is None or held.snapshot is not snapshot or held.period != period:
            with self._lock:
                held = self._held
                if held is None or held.snapshot is not snapshot or held.period != period:
                    held = self._held = self._sign(snapshot, period)
        return held.signed

    def prepare(self, snapshot: Snapshot) -> str:
        """Sign a list before anybody asks for it; a large one takes a moment.

        Returns:
            The tag of the signed list; empty where there is a refusal.
        """
        if self.refusal(snapshot) is not None:
            return ""
        period, held = self._period(), self._held
        if held is None or held.snapshot is not snapshot or held.period != period:
            held = self._held = self._sign(snapshot, period)
        return held.signed.etag

    def _period(self) -> int:
        return int(self._clock()) // self._half

    def _sign(self, snapshot: Snapshot, period: int) -> _Held:
        if self.key is None:
            raise ValueError("there is no key")
        iat = period * self._half
        body = self.key.sign(snapshot.plain.body, ver=snapshot.ver, iat=iat, exp=iat + self._ttl)
        tag = hashlib.sha256(body).hexdigest()[:32]
        about = dict(snapshot.plain.not_modified)
        # What is kept must hold for as long as it is kept.
        about["Cache-Control"] = re.sub(
            r"max-age=(\d+)",
            lambda age: f"max-age={min(int(age[1]), self._ttl - self._half)}",
            about["Cache-Control"],
        )
        not_modified = [("ETag", f'"{tag}"'), *((n, v) for n, v in about.items() if n != "ETag")]
        headers = [
            ("Content-Type", MEDIA_TYPE),
            ("Content-Length", str(len(body))),
            *not_modified,
        ]
        variant = Variant(f'"{tag}"', body, headers, not_modified)
        # Without a date: two lists may be signed for one and the same period.
        signed = replace(snapshot, etag=tag, plain=variant, gzip=None, last_modified_text="")
        return _Held(snapshot, period, signed)
