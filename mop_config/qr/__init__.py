"""QR codes of endpoint lists: encode and decode the text, draw and scan the image.

Read ``text`` first, which chooses the form and the endpoints that fit; then ``drawing``. The JSON
of the three forms is in ``model.codec``.
"""

from ..model.codec import QR_FORMATS, QrData
from ..model.codec import dumps_qr as dumps
from ..model.codec import loads_qr as parse
from .drawing import QUIET_ZONE, image, modules, scan
from .text import CAPACITIES, CAPACITY, MAX_LIMIT, QrText, Shortlist, check, fit

__all__ = [
    "CAPACITIES",
    "CAPACITY",
    "MAX_LIMIT",
    "QR_FORMATS",
    "QUIET_ZONE",
    "QrData",
    "QrText",
    "Shortlist",
    "check",
    "dumps",
    "fit",
    "image",
    "modules",
    "parse",
    "scan",
]
