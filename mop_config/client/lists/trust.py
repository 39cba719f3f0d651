"""``Trust``: trusted keys, and the high-water mark that refuses older signed lists."""

import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import SignatureError, SigningKeyError
from ...model import jws
from ...model.endpoint import rfc3339
from ..keywords import Several
from .cache_file import DAMAGED, reason_of, write

logger = logging.getLogger(__name__)

#: A public key, or several: a JWK or a JWK set (as a ``dict`` or JSON), PEM, or a file of them.
Key = Mapping[str, Any] | str | Path

_MAX_FILE_BYTES = 65536
#: Limit of the older lists kept beside the newest list, such as QR codes scanned one by one.
_MOST_BESIDE = 16


def trusted_keys(keys: Several[Key]) -> jws.TrustedKeys:
    """Read the keys that an application trusts.

    Args:
        keys: A text that is neither JSON nor PEM is the path of a file.

    Raises:
        SigningKeyError: If a key cannot be used, or no key is given.
        MissingExtra: If joserfc is not installed.
        TypeError: If a single key is given instead of a list.
    """
    if isinstance(keys, (str, bytes, Path, Mapping)):
        raise TypeError("give a list of keys, not one key")
    try:
        return jws.TrustedKeys([_text(key) for key in keys])
    except SigningKeyError as error:
        raise SigningKeyError(f"trusted_keys cannot be used: {error}") from None


def _text(key: Key) -> Mapping[str, Any] | str | bytes:
    if isinstance(key, Mapping) or (
        isinstance(key, str) and re.match(r"\s*(?:\{|-----BEGIN)", key)
    ):
        return key
    try:
        # ``fspath`` refuses a number, which ``open`` would take for a descriptor, and close.
        with open(os.fspath(key), "rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except (OSError, ValueError, TypeError) as error:
        raise SigningKeyError(f"it is neither a key nor a file of keys ({error})") from None


class HighWaterMark(NamedTuple):
    """The version of the newest list that a key has signed; every older list is refused.

    Attributes:
        ver: The version of that list, in milliseconds.
        digest: The hash of its contents.
    """

    ver: int
    digest: str


class Trust:
    """Verifies signed lists, and remembers the accepted lists.

    Any thread may ``read`` and ask for the state; the caller lets one thread at a time ``take``.

    The highest mark of a trusted key counts. Each key has a mark of its own: otherwise a high
    version, signed by a stolen key that is now revoked, would block all later lists. The marks
    have a file of their own, which survives a lost cache file, and which processes share.

    Args:
        keys: The trusted keys; see ``trusted_keys``.
        most: Limit of the endpoints of a list.
        cache: The cache file, beside which the file of the marks is, or None for no file.

    Attributes:
        accepted: The accepted lists whose endpoints are in use: the newest list, after the older
            lists to which the newest list was added.
    """

    def __init__(self, keys: Several[Key], most: int, cache: Path | None) -> None:
        self._keys = trusted_keys(keys)
        self._most = most
        self._path = None if cache is None else cache.with_name(f"{cache.name}.mark")
        self._clock = time.time
        self._marks: dict[str, HighWaterMark] = {}  # by key
        self._warned_of_clock = self._warned_of_marks = False
        self.accepted: tuple[jws.SignedList, ...] = ()

    def read(self, text: str | bytes) -> jws.SignedList:
        """Verify a signed list, and return it.

        Raises:
            SignatureError: If the list must not be accepted.
        """
        signed = self._keys.verify(text, self._clock(), self._most)
        self._check_age(signed)
        newest = self.accepted[-1].iat if self.accepted else 0
        jws.check_ahead(signed, max(self._clock(), newest))
        return signed

    @property
    def mark(self) -> HighWaterMark | None:
        """The highest mark of a trusted key, or None."""
        marks = self._all_marks().items()
        return max((mark for kid, mark in marks if kid in self._keys.kids), default=None)

    def _check_age(self, signed: jws.SignedList) -> None:
        if mark := self._newer_mark(signed):
            message = f"its version {signed.ver} is older than {mark.ver}, which was taken"
            raise SignatureError("older", message)

    def _newer_mark(self, signed: jws.SignedList) -> HighWaterMark | None:
        """Return the mark if its list is newer than ``signed``, and has other contents."""
        mark = self.mark
        return mark if mark and mark.ver > signed.ver and mark.digest != signed.digest else None

    def _all_marks(self) -> dict[str, HighWaterMark]:
        """Return the marks with those in the file, which other processes write, too."""
        marks = dict(self._marks)
        try:
            document = json.loads(self._path.read_bytes()) if self._path else {}
            for kid, (ver, digest) in document.items():
                stored = HighWaterMark(int(ver), str(digest))
                marks[kid] = max(stored, marks.get(kid, stored))
        except FileNotFoundError:
            pass
        except (OSError, *DAMAGED) as error:
            if not self._warned_of_marks:
                logger.warning("the mark in %s is ignored: %s", self._path, reason_of(error))
            self._warned_of_marks = True
        return marks

    def save_marks(self) -> None:
        """Write the marks to their file.

        Raises:
            OSError: If the file cannot be written.
        """
        if self._path is not None:
            write(self._path, self._all_marks())

    def take(self, signed: jws.SignedList, *, added: bool = False) -> None:
        """Record that a list is accepted; older lists are refused from now on.

        Args:
            signed: The list.
            added: Whether the endpoints are added to the earlier lists instead of replacing them.

        Raises:
            SignatureError: If a newer list was accepted after ``signed`` was read.
        """
        self._check_age(signed)
        self._raise_mark(signed)
        if self.accepted:
            newest = self.accepted[-1]
            if newest.digest == signed.digest and newest.exp > signed.exp:
                signed = newest
        others = [each for each in self.accepted if added and each.digest != signed.digest]
        self.accepted = (*others[-_MOST_BESIDE:], signed)

    def _raise_mark(self, signed: jws.SignedList) -> None:
        """Raise the mark to the version, but at most to a day ahead of the clock."""
        now = self._clock()
        mark = self.mark
        ahead = signed.iat > now + jws.SKEW
        if ahead and not self._warned_of_clock:
            logger.warning(
                "the endpoint list was signed at %s, which is in the future: is this clock behind?",
                rfc3339(signed.iat),
            )
        self._warned_of_clock = ahead
        if mark is None or signed.ver >= mark.ver:
            ver = max(min(signed.ver, int((now + jws.MAX_AHEAD) * 1000)), mark.ver if mark else 0)
            self._marks[signed.kid] = HighWaterMark(ver, signed.digest)

    def recall(self, texts: Sequence[str]) -> None:
        """Accept the stored lists again, whether or not they have expired.

        Args:
            texts: The JWS of the newest list, after the older lists to which it was added.

        Raises:
            SignatureError: If a list must not be accepted; the other lists are accepted.
        """
        found: list[jws.SignedList] = []
        refusal = None if texts else SignatureError("not-signed", "it is not a signed list")
        for text in texts:
            try:
                found.append(self._keys.verify(text))
            except SignatureError as error:
                refusal = error
        if found:
            self.take(found[-1])
            self.accepted = tuple(found)
        if refusal is not None:
            raise refusal

    def is_behind(self) -> bool:
        """Whether another process has accepted a newer list than this process."""
        return bool(self._newer_mark(self.accepted[-1]) if self.accepted else self._all_marks())

    @property
    def stale(self) -> bool:
        """Whether the newest list has expired."""
        return bool(self.accepted) and self.accepted[-1].expired(self._clock())
