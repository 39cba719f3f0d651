"""The served list, read one entry after the other. Pure.

Of 100,000 entries most readers want a few, or each for a moment; ``payload.loads`` would
hold the interpreter's lock for as long as it takes to read them all.
"""

import re
from collections.abc import Iterator

from .endpoint import Endpoint, assemble

#: Each kind by its short name, and the member that begins behind it in the body.
KINDS = ("api", "socketio")
_SECOND_KIND = b'"socketio_endpoints":['
_ENTRY = re.compile(rb'\{"url":"([^"]+)","priority":([0-9]+)(?:,"server_name":"([^"]+)")?\}')


def entries(body: bytes, kind: str) -> Iterator[Endpoint]:
    """Give the endpoints of one kind, in the order of the list.

    Args:
        body: The list in the form that ``payload.dumps`` writes.
        kind: ``api`` or ``socketio``.
    """
    # No URL holds a quotation mark, so this stands nowhere else.
    border = body.index(_SECOND_KIND)
    start, end = (0, border) if kind == "api" else (border, len(body))
    for match in _ENTRY.finditer(body, start, end):
        url, priority, name = match.groups()
        yield assemble(url.decode(), int(priority), None if name is None else name.decode())
