"""Draw QR codes with segno, and read them from images with zxing-cpp.

Both libraries are imported at first use.
"""

import contextlib
import io
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, PayloadError, QrTooLong, QrUnreadable
from ..model.endpoint import EndpointConfig
from .text import CAPACITY, CAPACITY_UTF8, fit

if TYPE_CHECKING:
    from segno import QRCode

#: Width in modules of the white border around a code (ISO/IEC 18004).
QUIET_ZONE = 4
#: Least width of a PNG in pixels.
PNG_WIDTH = 480
#: Capacity in bytes of a code of version 20, by level of error correction. Up to that size, the
#: modules are large enough for a phone; beyond, large modules matter more than error correction.
_LEVELS = {"h": 382, "q": 482, "m": 666}

#: The image formats that are read; Pillow reads others by running programs.
IMAGES = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
#: Limit of the pixels that are decoded: a photograph taken by a phone. Larger JPEG images are
#: decoded at a half, a quarter or an eighth of their size, which their format makes cheap.
MAX_PIXELS = 16_000_000
#: Limit of the size of an image file in bytes.
MAX_IMAGE_BYTES = 32 << 20


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
    """Return the modules of the smallest code for a text, by rows, with the quiet zone.

    True is a dark module.

    Raises:
        PayloadError: If the text has no UTF-8 form.
        QrTooLong: If the text does not fit.
    """
    code = _encode(text, small=True)
    return [[bool(module) for module in row] for row in code.matrix_iter(border=QUIET_ZONE)]


@lru_cache(2)  # the same code is drawn as SVG and as PNG
def _encode(text: str, *, small: bool = False) -> "QRCode":
    import segno

    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise PayloadError("text", "must have a UTF-8 form") from None
    # Without the designator of UTF-8 (ECI), zbar decodes most of the text as Shift JIS.
    encoded: dict[str, Any] = {} if text.isascii() else {"encoding": "utf-8", "eci": True}
    overhead = 0 if text.isascii() else CAPACITY - CAPACITY_UTF8
    fitting = (level for level, room in _LEVELS.items() if size + overhead <= room)
    level = "l" if small else next(fitting, "l")
    try:
        return segno.make(text, error=level, micro=False, boost_error=True, **encoded)
    except segno.DataOverflowError:
        raise QrTooLong("text", size, CAPACITY - overhead) from None


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
    name = "the image" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(name, Path(source))
    try:
        picture = _open(Image, name, data)
        kinds: Any = zxingcpp.BarcodeFormat.QRCode
        found = zxingcpp.read_barcodes(picture, kinds, text_mode=zxingcpp.TextMode.Plain)
    except QrUnreadable:
        raise
    except Exception as error:  # image decoders raise exceptions of any class
        what = type(error).__name__
        raise QrUnreadable(
            name, f"is not a {', '.join(IMAGES)} image, or is damaged ({what})"
        ) from None
    texts = {_text(code) for code in found}
    if not texts:
        raise QrUnreadable(name, "no QR code was recognized")
    if len(texts) > 1:
        raise QrUnreadable(name, f"has {len(texts)} QR codes: cut out the right one")
    return texts.pop()


def _read(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise QrUnreadable(name, getattr(error, "strerror", None) or str(error)) from None


def _open(images: Any, name: str, data: bytes) -> Any:
    if len(data) > MAX_IMAGE_BYTES:
        raise QrUnreadable(name, f"is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MAX_PIXELS is checked below
        try:
            picture = images.open(io.BytesIO(data), formats=IMAGES)
        except images.DecompressionBombError:
            raise QrUnreadable(name, f"has more than {MAX_PIXELS} pixels") from None
    with picture:
        size = picture.width * picture.height
        part = next((part for part in (1, 2, 4) if size <= MAX_PIXELS * part**2), 8)
        if part > 1:
            picture.draft("L", (picture.width // part, picture.height // part))
        if picture.width * picture.height > MAX_PIXELS:
            raise QrUnreadable(name, f"has more than {MAX_PIXELS} pixels")
        if picture.has_transparency_data:
            # Transparent pixels become white.
            picture = picture.convert("RGBA")
            paper = images.new("L", picture.size, 255)
            paper.paste(picture.convert("L"), mask=picture.getchannel("A"))
            return paper
        return picture.convert("L")


def _text(code: Any) -> str:
    # JSON is UTF-8, even if the code declares another encoding, or none.
    with contextlib.suppress(UnicodeDecodeError):
        return bytes(code.bytes).decode()
    return str(code.text)
