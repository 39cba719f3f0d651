"""The routes of the QR code from which an app reads its endpoints."""

import hashlib
from functools import lru_cache
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request

from ... import qr
from ...errors import PayloadError, QrTooLong
from . import current_service, problem_response

blueprint = Blueprint("qr", __name__)

#: Limit of the fields in a query.
_MAX_FIELDS = 100
_TYPES = {"svg": "image/svg+xml", "png": "image/png", "json": "application/json"}


@blueprint.get("/qr.svg")
def svg() -> Response:
    """Return the code as SVG, without width and height."""
    return _answer("svg")


@blueprint.get("/qr.png")
def png() -> Response:
    """Return the code as PNG, about 500 pixels wide."""
    return _answer("png")


@blueprint.get("/qr.json")
def text() -> Response:
    """Return the text of the code."""
    return _answer("json")


def _answer(kind: str) -> Response:
    service = current_service()
    try:
        chosen = _parameters(request.query_string.decode("latin-1"))
    except PayloadError as error:
        return problem_response(400, str(error), {"parameter": error.field})
    shortlist = _shortlist(service.store.view.snapshot.plain.body)
    if not shortlist:
        return problem_response(404, "the list has no endpoint to put into a code")
    try:
        text = qr.fit(shortlist, *chosen)
    except QrTooLong as error:
        return problem_response(422, str(error), _overflow(error))
    settings = service.settings
    private = "private, " if settings.tokens or settings.tokens_file else ""
    response = Response(content_type=_TYPES[kind])
    # The code must not be older than the list: an app may scan it at any time.
    response.headers["Cache-Control"] = f"{private}no-cache"
    response.set_etag(hashlib.sha256(f"{kind} {text.text}".encode()).hexdigest()[:32])
    response.make_conditional(request)
    if response.status_code == 200:
        response.data = _draw(kind, text, _title(shortlist, chosen[2], text))
    return response


def choose(query: str, body: bytes) -> qr.QrText | None:
    """Choose the text of a code without drawing the code; None if the list is empty.

    Args:
        query: The query string, as for the routes.
        body: The wire form of the list.

    Raises:
        PayloadError: If a parameter is invalid.
        QrTooLong: If the text does not fit.
    """
    chosen = _parameters(query)
    shortlist = _shortlist(body)
    return qr.fit(shortlist, *chosen) if shortlist else None


def _parameters(query: str) -> tuple[str | None, str | None, int | None]:
    """Return ``format``, ``room_id`` and ``limit`` of a query; ignore other parameters.

    Raises:
        PayloadError: If a parameter is invalid; the error names the parameter.
    """
    try:
        fields = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        allowed = f"must be UTF-8, with {_MAX_FIELDS} fields at most"
        raise PayloadError("query", allowed) from None
    given: dict[str, str] = {}
    for name, value in fields:
        if name in {"format", "room_id", "limit"}:
            if name in given:
                raise PayloadError(name, "must be given once")
            given[name] = value
    number = given.get("limit")
    limit = None if number is None else _number(number)
    qr.check(given.get("format"), given.get("room_id"), limit)
    return given.get("format"), given.get("room_id"), limit


def _number(text: str) -> int:
    # Anything but a number becomes -1, which ``qr.check`` rejects.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1


def _overflow(error: QrTooLong) -> dict[str, object]:
    return {
        "format": error.format,
        "bytes": error.size,
        "capacity": error.capacity,
        "fits": [
            {"format": form} | ({} if limit is None else {"limit": limit})
            for form, limit in error.fits
        ],
    }


def _title(shortlist: qr.Shortlist, limit: int | None, text: qr.QrText) -> str:
    most = 1 if text.format == "single" else limit or max(shortlist.counts)
    api, socketio = (min(count, most) for count in shortlist.counts)
    return f"QR code with {api} API and {socketio} Socket.io endpoints"


# The cache key is the body in the store: always the same bytes object, whose hash is cached.
@lru_cache(maxsize=1)
def _shortlist(body: bytes) -> qr.Shortlist:
    return qr.Shortlist.of_body(body)


# All viewers of the dashboard request the same images.
@lru_cache(maxsize=32)
def _draw(kind: str, text: qr.QrText, title: str) -> bytes:
    if kind == "json":
        return text.text.encode()
    return qr.image(text.text, kind, title=title)
