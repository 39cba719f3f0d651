"""Images of QR codes: drawn by segno, read by zxing-cpp.

Neither library is imported before it is used.
"""

import contextlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, PayloadError, QrTooLong, QrUnreadable
from ..model.endpoint import EndpointConfig
from .text import CAPACITY, CAPACITY_UTF8, fit

if TYPE_CHECKING:
    from segno import QRCode

#: Modules of white around a code (ISO/IEC 18004).
QUIET_ZONE = 4
#: A PNG is at least so many pixels wide.
PNG_WIDTH = 480
#: Bytes that a code of version 20 holds, by level of error correction. Up to that size its
#: modules are large enough for a phone; beyond, large modules are worth more than correction.
_LEVELS = {"h": 382, "q": 482, "m": 666}

#: Images that are read; among the others are formats that run programs.
IMAGES = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
#: Pixels of the largest image that is decoded: a photograph of a phone. Larger JPEG images are
#: decoded at a half, a quarter or an eighth of their size, which their format makes cheap.
MAX_PIXELS = 16_000_000
#: Bytes of the largest file that is read.
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
    """Draw a code with its quiet zone, black on white.

    Args:
        content: A text, which is drawn as it stands, or the endpoints to choose one for.
        kind: ``svg`` (without a size of its own) or ``png``.
        format: As for ``fit``; with endpoints only, like the next two.
        room_id: As for ``fit``.
        limit: As for ``fit``.
        title: What a screen reader says of the SVG.

    Raises:
        PayloadError: If a parameter cannot be used.
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
    """Give the smallest code for a text, row by row with its quiet zone; True is dark.

    Raises:
        PayloadError: If the text has no UTF-8 form.
        QrTooLong: If it does not fit.
    """
    code = _encode(text, small=True)
    return [[bool(module) for module in row] for row in code.matrix_iter(border=QUIET_ZONE)]


def _encode(text: str, *, small: bool = False) -> "QRCode":
    import segno

    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise PayloadError("text", "must have a UTF-8 form") from None
    # Without the designator that it is UTF-8, zbar takes most of it for Shift JIS.
    encoded: dict[str, Any] = {} if text.isascii() else {"encoding": "utf-8", "eci": True}
    overhead = 0 if text.isascii() else CAPACITY - CAPACITY_UTF8
    fitting = (level for level, room in _LEVELS.items() if size + overhead <= room)
    level = "l" if small else next(fitting, "l")
    try:
        return segno.make(text, error=level, micro=False, boost_error=True, **encoded)
    except segno.DataOverflowError:
        raise QrTooLong("text", size, CAPACITY - overhead) from None


def scan(source: str | Path | bytes) -> str:
    """Read the text of the code in an image.

    Args:
        source: Path of a PNG, JPEG, GIF, WebP or BMP file, or its bytes.

    Raises:
        QrUnreadable: If there is no such image, or not exactly one code in it.
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
    except Exception as error:  # decoders of images raise whatever they like
        what = type(error).__name__
        raise QrUnreadable(name, f"is no {', '.join(IMAGES)} image, or broken ({what})") from None
    texts = {_text(code) for code in found}
    if not texts:
        raise QrUnreadable(name, "no QR code can be made out in it")
    if len(texts) > 1:
        raise QrUnreadable(name, f"{len(texts)} QR codes are in it: cut out the right one")
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
        warnings.simplefilter("ignore")  # our own limit of pixels stands below
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
            # What is transparent is as white as the paper.
            picture = picture.convert("RGBA")
            paper = images.new("L", picture.size, 255)
            paper.paste(picture.convert("L"), mask=picture.getchannel("A"))
            return paper
        return picture.convert("L")


def _text(code: Any) -> str:
    # JSON is UTF-8, whatever encoding the code claims or leaves to be guessed.
    with contextlib.suppress(UnicodeDecodeError):
        return bytes(code.bytes).decode()
    return str(code.text)
