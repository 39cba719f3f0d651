"""Whom a manager believes: trusted keys, and the newest list that they have signed."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import payload
from ..errors import PayloadError, SignatureError, SigningKeyError
from ..signing import SignedList, TrustedKeys, looks_signed

#: A public key, or several: a JWK or a JWK set (as a ``dict`` or JSON), PEM, or a file of them.
Key = Mapping[str, Any] | str | Path

_MAX_KEY_BYTES = 65536


def trusted_keys(keys: Sequence[Key]) -> TrustedKeys:
    """Read the keys that an application trusts.

    Args:
        keys: A text that is neither JSON nor PEM is the path of a file.

    Raises:
        SigningKeyError: If one cannot be used, or there is none.
        MissingExtra: If joserfc is not installed.
        TypeError: If one key is given instead of a list.
    """
    if isinstance(keys, (str, bytes, Path, Mapping)):
        raise TypeError("give a list of keys, not one key")
    texts: list[Mapping[str, Any] | str | bytes] = []
    for number, key in enumerate(keys):
        try:
            text = _text(key)
            TrustedKeys([text])
        except SigningKeyError as error:
            raise SigningKeyError(f"trusted_keys[{number}] cannot be used: {error}") from None
        texts.append(text)
    if not texts:
        raise SigningKeyError("trusted_keys is empty: no list could ever be taken")
    return TrustedKeys(texts)


def _text(key: Key) -> Mapping[str, Any] | str | bytes:
    if isinstance(key, Mapping):
        return key
    if isinstance(key, str) and re.match(r"\s*(?:\{|-----BEGIN)", key):
        return key
    try:
        with open(key, "rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise SigningKeyError(f"{key}: {error.strerror or error}") from None
    except ValueError:
        raise SigningKeyError("it is neither a key nor the path of one") from None


class Mark(NamedTuple):
    """The newest list that was ever taken: what is older is refused from then on.

    Attributes:
        ver: Its version, in milliseconds.
        digest: Of its contents.
    """

    ver: int
    digest: str


class Trust:
    """What a manager takes for a list, and what it took last; for any number of threads.

    Args:
        keys: The keys that it trusts; one mark stands for all of them.
        clock: Gives POSIX seconds.
    """

    def __init__(self, keys: TrustedKeys, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock
        self._lock = threading.Lock()
        self._others: Callable[[], Mark | None] = lambda: None
        self.mark: Mark | None = None
        self.current: SignedList | None = None

    def read(self, text: str | bytes, *, kept: bool = False) -> SignedList:
        """Read a signed list.

        Args:
            text: The JWS.
            kept: Whether it was taken before: then it may have expired since.

        Raises:
            SignatureError: If it must not be taken.
        """
        signed = self._keys.verify(text, None if kept else self._clock())
        with self._lock:
            self._check_age(signed)
        return signed

    def take(self, signed: SignedList) -> None:
        """Note that a list is taken: from now on, nothing older is.

        Raises:
            SignatureError: If a newer one was taken since it was read.
        """
        with self._lock:
            self._check_age(signed)
            if self.mark is None or signed.ver >= self.mark.ver:
                self.mark = Mark(signed.ver, signed.digest)
            current = self.current
            alike = current is not None and current.digest == signed.digest
            if current is None or not alike or signed.exp >= current.exp:
                self.current = signed

    def share(self, others: Callable[[], Mark | None]) -> None:
        """Have what other processes took count as well.

        Args:
            others: Gives the mark that all of them keep, as it is now; called often.
        """
        self._others = others

    def remember(self, mark: Mark | None) -> None:
        """Take in a mark that was kept."""
        with self._lock:
            if mark is not None and (self.mark is None or mark.ver > self.mark.ver):
                self.mark = mark

    def _check_age(self, signed: SignedList) -> None:
        for mark in (self.mark, self._others()):
            if mark is not None and signed.ver < mark.ver and signed.digest != mark.digest:
                raise SignatureError(
                    "older", f"its version {signed.ver} is older than {mark.ver}, which was taken"
                )

    def forked(self) -> None:
        """Start anew in a child process: the parent may have held the lock."""
        self._lock = threading.Lock()

    @property
    def stale(self) -> bool:
        """Whether the list that was taken last has expired, and no other has come."""
        return self.current is not None and self.current.expired(self._clock())


def read_qr(
    text: str | bytes, trust: Trust | None, *, plain: bool
) -> tuple[payload.QrData, SignedList | None]:
    """Read the text of a QR code, signed or not.

    Args:
        text: What was scanned.
        trust: What it must stand up to, or None where it need not be signed.
        plain: Whether it need not be, all the same.

    Raises:
        PayloadError: If it can be neither.
        SignatureError: If it must not be taken.
    """
    if not looks_signed(text):
        if trust is not None and not plain:
            raise SignatureError("not-signed", "it is not signed (trust=True takes it)")
        return payload.loads_qr(text), None
    if trust is None:
        raise PayloadError("document", "it is signed: trusted_keys must say by whom")
    signed = trust.read(text)
    lists = signed.config
    data = payload.QrData(lists.api_endpoints, lists.socketio_endpoints, signed.room_id)
    return data, signed
