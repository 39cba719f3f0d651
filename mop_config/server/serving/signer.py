"""Signer signs the served list as a JWS, once for each list and each half of its lifetime.

The bytes do not depend on the process that signs: every worker, and every node that has the key
and the list with the same version, makes the same JWS.
"""

import hashlib
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ...errors import MissingExtra, SettingsError, SigningKeyError, SourceError
from ...model.jws import MEDIA_TYPE, SigningKey
from ..settings import Settings
from ..sources.file import FileSource
from .store import Snapshot, Variant, common_headers

_VARIABLE = "ENDPOINT_SIGNING_KEY_FILE"
_MAX_KEY_BYTES = 65536


def read_key(path: str) -> tuple[SigningKey, tuple[str, ...]]:
    """Read the signing key, and return it with the warnings about its file.

    Raises:
        SettingsError: If the key cannot be used.
    """
    try:
        text = FileSource(path, _MAX_KEY_BYTES).read()
        key = SigningKey.read(text.data)
    except MissingExtra as error:
        raise SettingsError(_VARIABLE, path, f"left empty, since {error}") from None
    except (SigningKeyError, SourceError, OSError) as error:
        allowed = f"a file with an Ed25519 private key, as JWK or PEM ({error})"
        raise SettingsError(_VARIABLE, path, allowed) from None
    mode = stat.S_IMODE(text.signature.mode)
    if mode & stat.S_IROTH:
        return key, (f"{_VARIABLE}={path!r} can be read by everybody (mode {mode:04o})",)
    return key, ()


def check(settings: Settings) -> None:
    """Check the signing key before any process is started.

    Raises:
        SettingsError: If a key file is set, and its key cannot be used.
    """
    if settings.signing_key_file is not None:
        read_key(settings.signing_key_file)


class Signer:
    """Signs the served list if there is a signing key.

    A key file that became bad after the start does not stop a worker: the worker logs a warning
    and serves the list unsigned only.

    Args:
        settings: The path of the key file, and the lifetime of a signed list.
        clock: Returns POSIX seconds.

    Attributes:
        key: The signing key, or None if there is no usable key.
        warnings: Warnings about the key file.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._ttl = int(settings.signing_ttl)
        self._half = self._ttl // 2
        self._lock = threading.Lock()
        self._made: tuple[Snapshot, int, Snapshot] | None = None  # plain, period, signed
        self.key: SigningKey | None = None
        self.warnings: tuple[str, ...] = ()
        if settings.signing_key_file is not None:
            try:
                self.key, self.warnings = read_key(settings.signing_key_file)
            except SettingsError as error:
                self.warnings = (f"lists are not signed: {error}",)

    def refusal(self) -> tuple[int, str]:
        """Return the status code and the reason if ``signed`` has returned None."""
        if self._settings.signing_key_file is None:
            return 404, f"lists are not signed here: {_VARIABLE} is not set"
        if self.key is None:
            return 503, "the signing key cannot be used; the server's log says why"
        return 503, "there is no list to sign: an empty one is served"

    def signed(self, snapshot: Snapshot) -> Snapshot | None:
        """Return the signed form of a list; None without a key, and for an empty list."""
        if self.key is None or not snapshot.rendering.usable:
            return None
        period = int(self._clock()) // self._half
        with self._lock:
            made = self._made
            if made is None or made[0] is not snapshot or made[1] != period:
                made = self._made = snapshot, period, self._sign(self.key, snapshot, period)
            return made[2]

    def _sign(self, key: SigningKey, snapshot: Snapshot, period: int) -> Snapshot:
        iat = period * self._half
        body = key.sign(snapshot.plain.body, ver=snapshot.ver, iat=iat, exp=iat + self._ttl)
        tag = hashlib.sha256(body).hexdigest()[:32]
        # A cached signed list must stay valid for as long as the cache may keep it.
        max_age = min(self._settings.max_age, self._ttl - self._half)
        common = common_headers(self._settings, max_age)
        # No Last-Modified: two different lists may be signed for the same period.
        own = (("Content-Type", MEDIA_TYPE),)
        variant = Variant.of(f'"{tag}"', body, own, common)
        return replace(snapshot, plain=variant, gzip=None, last_modified_text="")
