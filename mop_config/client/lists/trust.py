"""``Trust``: trusted keys, and the high-water mark that refuses older signed lists."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import PayloadError, SignatureError, SigningKeyError
from ...model import codec
from ...model.endpoint import Endpoint, EndpointConfig, Kind
from ...model.jws import DAY, SKEW, SignedList, TrustedKeys, check_ahead, looks_signed, moment
from ..keywords import Several

logger = logging.getLogger(__name__)

#: A public key, or several: a JWK or a JWK set (as a ``dict`` or JSON), PEM, or a file of them.
Key = Mapping[str, Any] | str | Path

_MAX_KEY_BYTES = 65536
#: Limit of the older lists kept beside the newest list, such as QR codes scanned one by one.
_MOST_BESIDE = 16


def trusted_keys(keys: Several[Key]) -> TrustedKeys:
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


def trust_of(keys: Several[Key] | None, most: int) -> "Trust | None":
    """Return the ``Trust`` in the keys of a manager; None without keys.

    Raises:
        SigningKeyError: If a key cannot be used.
    """
    return None if keys is None else Trust(trusted_keys(keys), time.time, most)


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


class HighWaterMark(NamedTuple):
    """The version of the newest accepted list; every older list is refused.

    Attributes:
        ver: The version of that list, in milliseconds.
        digest: The hash of its contents.
        beside: The hashes of the older lists to which that list was added.
        kid: The id of the key that signed that list, or None if unknown.
        others: The lower marks of other keys, which apply if the key of this mark is no longer
            trusted.
    """

    ver: int
    digest: str
    beside: tuple[str, ...] = ()
    kid: str | None = None
    others: "tuple[HighWaterMark, ...]" = ()


class Trust:
    """Verifies signed lists, and remembers the accepted lists. Thread-safe.

    Args:
        keys: The trusted keys, which share one mark.
        clock: Returns POSIX seconds.
        most: Limit of the endpoints of a list, or None for no limit.

    Attributes:
        current: The list that was accepted last.
        beside: The older lists to which ``current`` was added and that have further endpoints,
            the oldest first.
    """

    def __init__(
        self, keys: TrustedKeys, clock: Callable[[], float], most: int | None = None
    ) -> None:
        self._keys = keys
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._others: Callable[[], HighWaterMark | None] = lambda: None
        self._marks: dict[str | None, HighWaterMark] = {}  # by key
        self._named_beside: tuple[str, ...] = ()
        self._warned = False
        self.current: SignedList | None = None
        self.beside: tuple[SignedList, ...] = ()

    def read(self, text: str | bytes, *, kept: bool = False) -> SignedList:
        """Verify a signed list, and return it.

        Args:
            text: The JWS.
            kept: Whether the list was accepted before; if so, it may have expired since.

        Raises:
            SignatureError: If the list must not be accepted.
        """
        signed = self._keys.verify(text, None if kept else self._clock(), self._most)
        with self._lock:
            self._check_age(signed)
            if not kept:
                self._check_ahead(signed)
        return signed

    @property
    def mark(self) -> HighWaterMark | None:
        """The mark of the newest accepted list that a trusted key has signed, or None."""
        if not self._marks:
            return None
        top, *others = sorted(self._marks.values(), key=lambda mark: -mark.ver)
        return top._replace(beside=self._named_beside, others=tuple(others))

    def counting(self, mark: HighWaterMark | None) -> HighWaterMark | None:
        """Return the highest mark of a trusted key in a stored mark, or None."""
        found = [each for each in _each(mark) if self._counts(each)]
        return max(found, key=lambda each: each.ver, default=None)

    def _counts(self, mark: HighWaterMark) -> bool:
        # Otherwise a high version signed by a stolen key, now revoked, would block all later lists.
        return mark.kid is None or mark.kid in self._keys.kids

    def take(self, signed: SignedList, *, added: bool = False) -> None:
        """Record that a list is accepted; older lists are refused from now on.

        Args:
            signed: The list.
            added: Whether the endpoints are added to the earlier lists instead of replacing them.

        Raises:
            SignatureError: If a newer list was accepted after ``signed`` was read.
        """
        with self._lock:
            self._check_age(signed)
            self._set_mark(signed)
            current = self.current
            alike = current is not None and current.digest == signed.digest
            before = () if current is None else (*self.beside, current)
            self.beside = _still_counting(before, signed) if added else ()
            self._named_beside = tuple(each.digest for each in self.beside)
            if current is None or not alike or signed.exp >= current.exp:
                self.current = signed

    def _set_mark(self, signed: SignedList) -> None:
        """Set the mark to the version, limited to a day ahead of the clock (which may be slow)."""
        now, mark = self._clock(), self.mark
        ahead = signed.iat > now + SKEW
        if ahead and not self._warned:
            logger.warning(
                "the endpoint list was signed at %s, which is in the future: is this clock behind?",
                moment(signed.iat),
            )
        self._warned = ahead
        bound = int((now + DAY) * 1000)
        if mark is None:
            self._marks[signed.kid] = HighWaterMark(
                min(signed.ver, bound), signed.digest, kid=signed.kid
            )
        elif signed.ver >= mark.ver:
            ver = min(signed.ver, max(bound, mark.ver))
            self._marks[signed.kid] = HighWaterMark(ver, signed.digest, kid=signed.kid)

    def recall(self, text: str, beside: Sequence[str], mark: HighWaterMark | None) -> None:
        """Accept a stored list again, with the older lists to which it was added.

        An older list is accepted only if the mark names its hash: otherwise a changed file could
        bring back a list that had been replaced.

        Args:
            text: The JWS of the list.
            beside: The JWS of each older list.
            mark: The stored mark, which may be older than the list.

        Raises:
            SignatureError: If a list must not be accepted; the other lists are accepted.
        """
        signed = self.read(text, kept=True)
        named = () if mark is None else (mark.digest, *mark.beside)
        found, refusal = [], None
        for each in beside[-_MOST_BESIDE:]:
            try:
                older = self._keys.verify(each)
                if older.digest not in named:
                    raise SignatureError("older", f"its version {older.ver} was not kept beside it")
                found.append(older)
            except SignatureError as error:
                refusal = error
        self.take(signed)
        with self._lock:
            self.beside = tuple(found)
            self._named_beside = tuple(each.digest for each in found)
        if refusal is not None:
            raise refusal

    def config(self) -> EndpointConfig:
        """Return the endpoints of all accepted lists; the newer list sets the priorities."""
        with self._lock:
            lists = [*self.beside, *([] if self.current is None else [self.current])]
        kinds = [[each.config.kinds()[kind] for each in lists] for kind in Kind]
        return EndpointConfig(*(tuple(_by_url(kind).values()) for kind in kinds))

    def share(self, others: Callable[[], HighWaterMark | None]) -> None:
        """Respect the lists that other processes have accepted.

        Args:
            others: Returns the mark in the file that the processes share; called at each check.
        """
        self._others = others

    def remember(self, mark: HighWaterMark | None) -> None:
        """Add a stored mark to the marks of this object."""
        with self._lock:
            before = self.mark
            for each in filter(self._counts, _each(mark)):
                there = self._marks.get(each.kid)
                if there is None or each.ver > there.ver:
                    self._marks[each.kid] = each
            after = self.mark
            if mark is not None and after is not None and (not before or after.ver > before.ver):
                self._named_beside = mark.beside

    def _check_ahead(self, signed: SignedList) -> None:
        latest = max(self._clock(), self.current.iat if self.current else 0)
        check_ahead(signed, latest)

    def _check_age(self, signed: SignedList) -> None:
        for mark in (self.mark, self.counting(self._others())):
            if mark is not None and signed.ver < mark.ver and signed.digest != mark.digest:
                raise SignatureError(
                    "older", f"its version {signed.ver} is older than {mark.ver}, which was taken"
                )

    def reset_after_fork(self) -> None:
        """Replace the lock in a child process: a thread may have held the parent's lock."""
        self._lock = threading.Lock()

    @property
    def stale(self) -> bool:
        """Whether the list that was accepted last has expired."""
        return self.current is not None and self.current.expired(self._clock())


def _each(mark: HighWaterMark | None) -> Iterable[HighWaterMark]:
    """Return the marks of all keys, one by one."""
    marks = () if mark is None else (mark, *mark.others)
    return [each._replace(beside=(), others=()) for each in marks]


def _by_url(lists: Iterable[Iterable[Endpoint]]) -> dict[str, Endpoint]:
    return {endpoint.url: endpoint for endpoints in lists for endpoint in endpoints}


def _still_counting(before: Iterable[SignedList], new: SignedList) -> tuple[SignedList, ...]:
    """Return the older lists with an endpoint that no newer list names."""
    covered = [{e.url for e in endpoints} for endpoints in new.config.kinds().values()]
    kept: list[SignedList] = []
    for older in reversed(tuple(before)):
        own = [{e.url for e in endpoints} for endpoints in older.config.kinds().values()]
        if any(urls - there for urls, there in zip(own, covered, strict=True)):
            kept.append(older)
            covered = [urls | there for urls, there in zip(own, covered, strict=True)]
    return tuple(reversed(kept[:_MOST_BESIDE]))


def read_qr(
    text: str | bytes, trust: Trust | None, most: int, *, plain: bool
) -> tuple[codec.QrData, SignedList | None]:
    """Read the text of a QR code, signed or not.

    Args:
        text: The scanned text.
        trust: Verifies a signed text, or None if texts need not be signed.
        most: Limit of the endpoints.
        plain: Whether an unsigned text is accepted although ``trust`` is given.

    Raises:
        PayloadError: If the text is not a list.
        SignatureError: If the text must not be accepted.
    """
    if not looks_signed(text):
        if trust is not None and not plain:
            raise SignatureError("not-signed", "it is not signed (trust=True takes it)")
        return codec.loads_qr(text, most), None
    if trust is None:
        raise PayloadError("document", "it is signed: trusted_keys must say by whom")
    signed = trust.read(text)
    lists = signed.config
    data = codec.QrData(lists.api_endpoints, lists.socketio_endpoints, signed.room_id)
    return data, signed
