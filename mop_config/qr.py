"""QR codes of endpoint lists: choose the text, draw the code, and scan an image.

``parse`` and ``dumps``, from ``model.endpoint``, decode and encode the JSON of the three forms.
The largest code has room for 2952 bytes, which is about fifty endpoints in the ``full`` form. The
least preferred endpoints are left out.

segno, which draws, and zxing-cpp, which reads, are imported at first use.
"""

import io
from bisect import bisect_left
from functools import lru_cache
from heapq import nsmallest
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import MissingExtra, PayloadError, QrTooLong, QrUnreadable
from .model.endpoint import QR_FORMATS, EndpointConfig, QrData, check_room_id
from .model.endpoint import dumps_qr as dumps
from .model.endpoint import loads_qr as parse

if TYPE_CHECKING:
    from segno import QRCode

__all__ = ["QR_FORMATS", "QrData", "QrText", "dumps", "fit", "image", "modules", "parse", "scan"]

#: Capacity in bytes of the largest code, version 40 at error correction L (ISO/IEC 18004): 2953,
#: less one that declares the encoding UTF-8, which only a text that is not ASCII needs.
CAPACITY = 2952
#: Upper bound of ``limit``; far fewer endpoints fit into a code.
MAX_LIMIT = 1000
#: Width in modules of the white border around a code (ISO/IEC 18004).
QUIET_ZONE = 4
#: Least width of a PNG in pixels.
PNG_WIDTH = 480
#: The image formats that are read; Pillow reads others by running programs.
IMAGES = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
#: Limit of the pixels that are decoded: a photograph taken by a phone.
MAX_PIXELS = 16_000_000
#: Least size of a large JPEG image, which is decoded at a half, a quarter or an eighth of its size.
_DRAFT = (2000, 2000)
#: Limit of the size of an image file in bytes.
MAX_IMAGE_BYTES = 32 << 20


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


def fit(
    config: EndpointConfig,
    format: str | None = None,  # noqa: A002 - as in the route and on the command line
    room_id: str | None = None,
    limit: int | None = None,
) -> QrText:
    """Choose the text of a code.

    Args:
        config: The endpoints.
        format: ``full``, ``list`` or ``single``; None chooses the first of these that fits.
        room_id: The room that the app joins, or None.
        limit: Number of endpoints of each kind, the best ones; None for all.

    Raises:
        PayloadError: If a parameter is invalid, or the list has no endpoint.
        QrTooLong: If the text does not fit; the error states what would fit.
    """
    check(format, room_id, limit)
    if not config:
        raise PayloadError("endpoints", "the list has no endpoint to put into a code")
    shortlist = _best(config, MAX_LIMIT)  # more endpoints fit into no code

    def text_of(form: str, limit: int | None) -> QrText:
        return QrText(form, dumps(_best(shortlist, limit or MAX_LIMIT), form, room_id))

    def fits(form: str, limit: int | None) -> bool:
        return text_of(form, limit).size <= CAPACITY

    for form in (format,) if format else QR_FORMATS:
        text = text_of(form, limit)
        if text.size <= CAPACITY:
            return text
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
    whole = config if limit is None else _best(config, limit)
    size = len(dumps(whole, wanted, room_id).encode())
    raise QrTooLong(wanted, size, CAPACITY, tuple(alternatives))


def check(format: str | None, room_id: str | None, limit: int | None) -> None:  # noqa: A002
    """Validate the parameters of a code.

    Raises:
        PayloadError: If a parameter is invalid; the error names the parameter.
    """
    if format is not None and format not in QR_FORMATS:
        raise PayloadError("format", f"must be one of {', '.join(QR_FORMATS)}")
    check_room_id(room_id)
    if limit is not None and (type(limit) is not int or not 1 <= limit <= MAX_LIMIT):
        raise PayloadError("limit", f"must be a whole number from 1 to {MAX_LIMIT}")


def _best(config: EndpointConfig, limit: int) -> EndpointConfig:
    """Choose the best endpoints of each kind, in the order of the list; of equals, the first."""
    lists = []
    for listed in config.kinds().values():
        best = nsmallest(limit, enumerate(listed), key=lambda each: each[1].priority)
        lists.append(tuple(endpoint for _, endpoint in sorted(best, key=itemgetter(0))))
    return EndpointConfig(*lists)


def image(
    content: str | EndpointConfig,
    kind: str = "svg",
    *,
    format: str | None = None,  # noqa: A002 - as in the route and on the command line
    room_id: str | None = None,
    limit: int | None = None,
    title: str = "QR code",
) -> bytes:
    """Draw a code in black on white, with its quiet zone.

    Args:
        content: The text of the code, or the endpoints from which ``fit`` makes the text.
        kind: ``svg`` (without width and height) or ``png``.
        format: As for ``fit``; this and the next two only apply to endpoints.
        room_id: As for ``fit``.
        limit: As for ``fit``.
        title: The title of the SVG, for screen readers.

    Raises:
        PayloadError: If a parameter is invalid.
        QrTooLong: If the text does not fit.
    """
    if kind not in {"svg", "png"}:
        raise PayloadError("kind", "must be one of svg, png")
    if isinstance(content, EndpointConfig):
        content = fit(content, format, room_id, limit).text
    code = _encode(content)
    out = io.BytesIO()
    if kind == "svg":
        code.save(out, kind="svg", border=QUIET_ZONE, light="#fff", omitsize=True, title=title)
    else:
        width = code.symbol_size(border=QUIET_ZONE)[0]
        code.save(out, kind="png", border=QUIET_ZONE, scale=-(-PNG_WIDTH // width))
    return out.getvalue()


def modules(text: str) -> list[list[bool]]:
    """Return the modules of the code for a text, by rows, with the quiet zone.

    True is a dark module.

    Raises:
        PayloadError: If the text has no UTF-8 form.
        QrTooLong: If the text does not fit.
    """
    code = _encode(text)
    return [[bool(module) for module in row] for row in code.matrix_iter(border=QUIET_ZONE)]


@lru_cache(2)  # the same code is drawn as SVG and as PNG
def _encode(text: str) -> "QRCode":
    """Return the smallest code for a text, with as much error correction as that size has room for.

    Large modules matter more than error correction, which screens hardly need.
    """
    import segno

    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise PayloadError("text", "must have a UTF-8 form") from None
    # Without the designator of UTF-8 (ECI), zbar decodes most of the text as Shift JIS. Without the
    # mode, segno takes bytes that are Shift JIS by chance for it.
    utf8 = {"encoding": "utf-8", "eci": True, "mode": "byte"}
    encoded: dict[str, Any] = {} if text.isascii() else utf8
    try:
        return segno.make(text, error="l", micro=False, boost_error=True, **encoded)
    except segno.DataOverflowError:
        raise QrTooLong("text", size, CAPACITY) from None


def scan(source: str | Path | bytes) -> str:
    """Decode the QR code in an image.

    Args:
        source: The path or the bytes of a PNG, JPEG, GIF, WebP or BMP file.

    Raises:
        QrUnreadable: If the image is missing or invalid, or does not have exactly one code.
        MissingExtra: If the extra ``qr`` is not installed.
    """
    try:
        import zxingcpp
        from PIL import Image
    except ImportError:
        raise MissingExtra("reading QR codes from images", "qr") from None
    name, data = "the image", source
    if not isinstance(data, bytes):
        name = str(source)
        try:
            with open(data, "rb") as file:
                data = file.read(MAX_IMAGE_BYTES + 1)
        except (OSError, ValueError) as error:
            raise QrUnreadable(name, getattr(error, "strerror", None) or str(error)) from None
    try:
        picture = _open(Image, name, data)
        kinds: Any = zxingcpp.BarcodeFormat.QRCode
        found = zxingcpp.read_barcodes(picture, kinds, text_mode=zxingcpp.TextMode.Plain)
    except QrUnreadable:
        raise
    except Exception as error:  # image decoders raise exceptions of any class
        damage = f"or is damaged ({type(error).__name__})"
        raise QrUnreadable(name, f"is not a {', '.join(IMAGES)} image, {damage}") from None
    texts = {str(code.text) for code in found}
    if not texts:
        raise QrUnreadable(name, "no QR code was recognized")
    if len(texts) > 1:
        raise QrUnreadable(name, f"has {len(texts)} QR codes: cut out the right one")
    return texts.pop()


def _open(images: Any, name: str, data: bytes) -> Any:
    if len(data) > MAX_IMAGE_BYTES:
        raise QrUnreadable(name, f"is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    with images.open(io.BytesIO(data), formats=IMAGES) as picture:
        picture.draft("L", _DRAFT)
        if picture.width * picture.height > MAX_PIXELS:
            raise QrUnreadable(name, f"has more than {MAX_PIXELS} pixels")
        picture = picture.convert("RGBA")
    paper = images.new("L", picture.size, 255)  # transparent pixels become white
    paper.paste(picture.convert("L"), mask=picture.getchannel("A"))
    return paper
