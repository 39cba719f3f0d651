"""Which text goes into a QR code: the form and the number of endpoints that fit. Pure.

A code of the largest size holds 2953 bytes (ISO/IEC 18004, version 40-L), which is about
fifty endpoints in the ``full`` form. What is left out are the least preferred ones.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from operator import itemgetter
from typing import Any, NamedTuple

from ..errors import PayloadError, QrTooLong
from ..model.codec import QR_FORMATS, check_room_id, dumps_qr, entry_text, iter_endpoints
from ..model.endpoint import Endpoint, EndpointConfig, Kind

#: Bytes in the largest code.
CAPACITY = 2953
#: The same for text that is not ASCII: the code says then that it is UTF-8.
CAPACITY_UTF8 = 2952
#: Bytes in a code of each version, the first being 1, with the least error correction.
CAPACITIES = (
    *(17, 32, 53, 78, 106, 134, 154, 192, 230, 271, 321, 367, 425, 458, 520, 586, 644, 718, 792),
    *(858, 929, 1003, 1091, 1171, 1273, 1367, 1465, 1528, 1628, 1732, 1840, 1952, 2068, 2188),
    *(2303, 2431, 2563, 2699, 2809, CAPACITY),
)
#: As many endpoints of a kind may be asked for; far fewer fit.
MAX_LIMIT = 1000


class QrText(NamedTuple):
    """A text that fits into a code.

    Attributes:
        format: ``full``, ``list`` or ``single``.
        text: The text.
    """

    format: str
    text: str

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Offer:
    """What a list has for a code, small however long the list is.

    Attributes:
        best: The best of each kind, at most ``MAX_LIMIT``, in the order of the list.
        counts: How many endpoints of each kind the whole list has.
        sizes: Bytes that the whole list takes in the ``full`` and the ``list`` form.
    """

    best: EndpointConfig
    counts: tuple[int, ...]
    sizes: dict[str, int]

    @classmethod
    def of(cls, config: EndpointConfig) -> "Offer":
        """Make the offer of a configuration."""
        return cls._of(config.kinds().values())

    @classmethod
    def of_body(cls, body: bytes) -> "Offer":
        """Make the offer of a wire form that ``codec.dumps`` made.

        The endpoints are read one after the other: 100,000 of each kind take some tenths of a
        second, in which other threads go on.
        """
        return cls._of(iter_endpoints(body, kind) for kind in Kind)

    @classmethod
    def _of(cls, kinds: Iterable[Iterable[Endpoint]]) -> "Offer":
        tallies = [_Tally() for _ in Kind]
        best = [
            _best(tally.count(listed), MAX_LIMIT)
            for tally, listed in zip(tallies, kinds, strict=True)
        ]
        return cls(
            best=EndpointConfig(*best),
            counts=tuple(tally.number for tally in tallies),
            sizes={
                "full": _document_size((tally.number, tally.full) for tally in tallies),
                "list": _document_size((tally.number, tally.list) for tally in tallies),
            },
        )

    def __bool__(self) -> bool:
        return bool(self.best)

    def size(self, format: str, room_id: str | None, limit: int | None) -> int:  # noqa: A002
        """Give the bytes that a text takes, however many they are."""
        if self._is_whole(format, limit):
            return len(self.text(format, room_id, limit).encode())
        return self.sizes[format] + (0 if room_id is None else _room_size(room_id))

    def text(self, format: str, room_id: str | None, limit: int | None) -> str:  # noqa: A002
        """Write a text; without a limit, of ``MAX_LIMIT`` endpoints of a kind at most."""
        return dumps_qr(self.limited(limit), format, room_id)

    def limited(self, limit: int | None) -> EndpointConfig:
        """Give the best of each kind, in the order of the list."""
        if limit is None or limit >= MAX_LIMIT:
            return self.best
        return EndpointConfig(
            *(_best(endpoints, limit) for endpoints in self.best.kinds().values())
        )

    def _is_whole(self, format: str, limit: int | None) -> bool:  # noqa: A002
        """Whether ``best`` holds everything that is asked for."""
        return format == "single" or limit is not None or max(self.counts) <= MAX_LIMIT


def fit(
    config: EndpointConfig | Offer,
    format: str | None = None,  # noqa: A002 - as in the route and on the command line
    room_id: str | None = None,
    limit: int | None = None,
    capacity: int = CAPACITY,
) -> QrText:
    """Find the text for a code.

    Args:
        config: The endpoints.
        format: ``full``, ``list`` or ``single``; None takes the first that fits.
        room_id: The room to join, or None.
        limit: How many endpoints of each kind, the best first; None takes all.
        capacity: Bytes that the code may hold.

    Raises:
        PayloadError: If a parameter cannot be used, or there is no endpoint.
        QrTooLong: If the text does not fit; it says what would.
    """
    check(format, room_id, limit)
    offer = config if isinstance(config, Offer) else Offer.of(config)
    if not offer:
        raise PayloadError("endpoints", "there is none to put into a code")
    for form in (format,) if format else QR_FORMATS:
        if _fits(offer, form, room_id, limit, capacity):
            return QrText(form, offer.text(form, room_id, limit))
    wanted = format or QR_FORMATS[-1]
    raise QrTooLong(
        wanted,
        offer.size(wanted, room_id, limit),
        capacity,
        tuple(_alternatives(offer, wanted, room_id, limit, capacity)),
    )


def check(format: str | None, room_id: str | None, limit: int | None) -> None:  # noqa: A002
    """Hold the parameters of a code to what is allowed.

    Raises:
        PayloadError: Naming the parameter.
    """
    if format is not None and format not in QR_FORMATS:
        raise PayloadError("format", f"must be one of {', '.join(QR_FORMATS)}")
    if room_id is not None:
        check_room_id(room_id)
        if any("\ud800" <= character <= "\udfff" for character in room_id):
            raise PayloadError("room_id", "must be text that has a UTF-8 form")
    if limit is not None and (type(limit) is not int or not 1 <= limit <= MAX_LIMIT):
        raise PayloadError("limit", f"must be a whole number from 1 to {MAX_LIMIT}")


def _fits(offer: Offer, form: str, room_id: str | None, limit: int | None, capacity: int) -> bool:
    # Only a room's name can be other than ASCII.
    if room_id is not None and not room_id.isascii():
        capacity -= CAPACITY - CAPACITY_UTF8
    return offer.size(form, room_id, limit) <= capacity


def _alternatives(
    offer: Offer, wanted: str, room_id: str | None, limit: int | None, capacity: int
) -> Iterable[tuple[str, int | None]]:
    """Give each form that would fit, and of how many endpoints where not of all."""
    forms = QR_FORMATS[QR_FORMATS.index(wanted) :]
    for form in forms:
        if _fits(offer, form, room_id, limit, capacity):
            yield form, None if form == "single" else limit
        elif form != "single":
            most = _most(offer, form, room_id, limit or MAX_LIMIT, capacity)
            if most:
                yield form, most


def _most(offer: Offer, form: str, room_id: str | None, below: int, capacity: int) -> int:
    """Find the most endpoints of a kind that fit; more never take less."""
    low, high = 0, below
    while low + 1 < high:
        middle = (low + high) // 2
        if _fits(offer, form, room_id, middle, capacity):
            low = middle
        else:
            high = middle
    return low


class _Tally:
    """Adds up what the entries of a kind take, on their way past."""

    def __init__(self) -> None:
        self.number = self.full = self.list = 0

    def count(self, listed: Iterable[Endpoint]) -> Iterator[Endpoint]:
        for endpoint in listed:
            self.number += 1
            self.list += len(endpoint.url) + 2
            self.full += len(entry_text(endpoint))
            yield endpoint


def _best(listed: Iterable[Endpoint], limit: int) -> tuple[Endpoint, ...]:
    """Choose the best endpoints, of equals the first, and leave them in their order."""
    placed = ((endpoint.priority, place, endpoint) for place, endpoint in enumerate(listed))
    best = sorted(nsmallest(limit, placed), key=itemgetter(1))
    return tuple(endpoint for _, _, endpoint in best)


def _document_size(kinds: Iterable[tuple[int, int]]) -> int:
    """Give the bytes of a text, by the number and the size of each kind's entries."""
    members = [
        len(f'"{kind.member}":[]') + size + number - 1
        for kind, (number, size) in zip(Kind, kinds, strict=True)
        if number
    ]
    return 2 + sum(members) + max(0, len(members) - 1)


def _room_size(room_id: str) -> int:
    member: dict[str, Any] = {"room_id": room_id}
    return len(json.dumps(member, separators=(",", ":"), ensure_ascii=False).encode()) - 2 + 1
