"""QR codes for apps: their three text forms, images of them, and the way back.

Neither the encoder (segno) nor the decoder (zxing-cpp) is imported before it is used.
"""

from ..model.codec import QR_FORMATS, QrData
from ..model.codec import dumps_qr as dumps
from ..model.codec import loads_qr as parse
from .drawing import QUIET_ZONE, image, modules, scan
from .text import CAPACITIES, CAPACITY, MAX_LIMIT, Offer, QrText, check, fit

__all__ = [
    "CAPACITIES",
    "CAPACITY",
    "MAX_LIMIT",
    "QR_FORMATS",
    "QUIET_ZONE",
    "Offer",
    "QrData",
    "QrText",
    "check",
    "dumps",
    "fit",
    "image",
    "modules",
    "parse",
    "scan",
]
