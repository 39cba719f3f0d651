"""Choose the text of a QR code: the form, and the endpoints that fit. Pure.

The largest code has room for 2953 bytes (ISO/IEC 18004, version 40-L), which is about fifty
endpoints in the ``full`` form. The least preferred endpoints are left out.
"""

from bisect import bisect_left
from dataclasses import dataclass
from heapq import nsmallest
from operator import itemgetter
from typing import NamedTuple

from ..errors import PayloadError, QrTooLong
from ..model.codec import QR_FORMATS, check_room_id, dumps_qr, iter_endpoints
from ..model.endpoint import EndpointConfig, Kind

#: Capacity in bytes of a code of each version, beginning with version 1, at error correction L.
# fmt: off
CAPACITIES = (
    17, 32, 53, 78, 106, 134, 154, 192, 230, 271, 321, 367, 425, 458, 520, 586, 644, 718, 792, 858,
    929, 1003, 1091, 1171, 1273, 1367, 1465, 1528, 1628, 1732, 1840, 1952, 2068, 2188, 2303, 2431,
    2563, 2699, 2809, 2953,
)
# fmt: on
#: Capacity of the largest code.
CAPACITY = CAPACITIES[-1]
#: The same for a text that is not ASCII: one byte declares the encoding UTF-8.
CAPACITY_UTF8 = CAPACITY - 1
#: Upper bound of ``limit``; far fewer endpoints fit into a code.
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
        """Size of the text in bytes."""
        return len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The endpoints of a list that can be in a code, and the size of the whole list.

    Attributes:
        best: The best endpoints, at most ``MAX_LIMIT`` of each kind, in the order of the list.
        counts: Number of endpoints of each kind in the whole list.
        sizes: Size in bytes of the whole list, in the ``full`` and in the ``list`` form.
    """

    best: EndpointConfig
    counts: tuple[int, ...]
    sizes: dict[str, int]

    @classmethod
    def of(cls, config: EndpointConfig) -> "Shortlist":
        """Make the shortlist of a list."""
        return cls(
            best=_best(config, MAX_LIMIT),
            counts=tuple(len(endpoints) for endpoints in config.kinds().values()),
            sizes={form: len(dumps_qr(config, form)) for form in ("full", "list")},
        )

    @classmethod
    def of_body(cls, body: bytes) -> "Shortlist":
        """Make the shortlist of a wire form that ``codec.dumps`` has encoded."""
        return cls.of(EndpointConfig(*(tuple(iter_endpoints(body, kind)) for kind in Kind)))

    def __bool__(self) -> bool:
        return bool(self.best)

    def size(self, format: str, room_id: str | None, limit: int | None) -> int:  # noqa: A002
        """Return the size in bytes of a text, however large the text is."""
        if format == "single" or limit is not None or max(self.counts) <= MAX_LIMIT:
            return len(self.text(format, room_id, limit).encode())
        room, no_room = (self.text("single", each, None).encode() for each in (room_id, None))
        return self.sizes[format] + len(room) - len(no_room)

    def text(self, format: str, room_id: str | None, limit: int | None) -> str:  # noqa: A002
        """Return the text; without a limit, of at most ``MAX_LIMIT`` endpoints of each kind."""
        return dumps_qr(self.limited(limit), format, room_id)

    def limited(self, limit: int | None) -> EndpointConfig:
        """Return the best endpoints of each kind, in the order of the list."""
        return self.best if limit is None else _best(self.best, limit)


def fit(
    config: EndpointConfig | Shortlist,
    format: str | None = None,  # noqa: A002 - as in the route and on the command line
    room_id: str | None = None,
    limit: int | None = None,
    capacity: int = CAPACITY,
) -> QrText:
    """Choose the text of a code.

    Args:
        config: The endpoints, or a shortlist of the endpoints.
        format: ``full``, ``list`` or ``single``; None chooses the first of these that fits.
        room_id: The room that the app joins, or None.
        limit: Number of endpoints of each kind, the best ones; None for all.
        capacity: Capacity of the code in bytes.

    Raises:
        PayloadError: If a parameter is invalid, or the list has no endpoint.
        QrTooLong: If the text does not fit; the error states what would fit.
    """
    check(format, room_id, limit)
    shortlist = config if isinstance(config, Shortlist) else Shortlist.of(config)
    if not shortlist:
        raise PayloadError("endpoints", "the list has no endpoint to put into a code")
    # Only the room id can have characters that are not ASCII.
    plain = room_id is None or room_id.isascii()
    room = capacity if plain else capacity - (CAPACITY - CAPACITY_UTF8)

    def fits(form: str, limit: int | None) -> bool:
        return shortlist.size(form, room_id, limit) <= room

    for form in (format,) if format else QR_FORMATS:
        if fits(form, limit):
            return QrText(form, shortlist.text(form, room_id, limit))
    wanted = format or QR_FORMATS[-1]
    alternatives: list[tuple[str, int | None]] = []
    for form in QR_FORMATS[QR_FORMATS.index(wanted) :]:
        if fits(form, limit):
            alternatives.append((form, None if form == "single" else limit))
        elif form != "single":
            # The largest limit that fits: more endpoints never take less room.
            limits = range(1, limit or MAX_LIMIT)
            if most := bisect_left(limits, True, key=lambda limit: not fits(form, limit)):
                alternatives.append((form, most))
    size = shortlist.size(wanted, room_id, limit)
    raise QrTooLong(wanted, size, capacity, tuple(alternatives))


def check(format: str | None, room_id: str | None, limit: int | None) -> None:  # noqa: A002
    """Validate the parameters of a code.

    Raises:
        PayloadError: If a parameter is invalid; the error names the parameter.
    """
    if format is not None and format not in QR_FORMATS:
        raise PayloadError("format", f"must be one of {', '.join(QR_FORMATS)}")
    if room_id is not None:
        check_room_id(room_id)
        if any("\ud800" <= character <= "\udfff" for character in room_id):
            raise PayloadError("room_id", "must be text that has a UTF-8 form")
    if limit is not None and (type(limit) is not int or not 1 <= limit <= MAX_LIMIT):
        raise PayloadError("limit", f"must be a whole number from 1 to {MAX_LIMIT}")


def _best(config: EndpointConfig, limit: int) -> EndpointConfig:
    """Choose the best endpoints of each kind, in the order of the list; of equals, the first."""
    lists = []
    for listed in config.kinds().values():
        best = nsmallest(limit, enumerate(listed), key=lambda each: each[1].priority)
        lists.append(tuple(endpoint for _, endpoint in sorted(best, key=itemgetter(0))))
    return EndpointConfig(*lists)
