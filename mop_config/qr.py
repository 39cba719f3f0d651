"""QR codes: the texts that hand an app its endpoints."""

from .payload import QR_FORMATS, QrData
from .payload import dumps_qr as dumps
from .payload import loads_qr as parse

__all__ = ["QR_FORMATS", "QrData", "dumps", "parse"]
