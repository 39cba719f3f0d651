"""The QR codes that hand an app its endpoints."""

import hashlib
from functools import lru_cache
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request

from ... import qr
from ...errors import PayloadError, QrTooLong
from . import current_service, problem_response

blueprint = Blueprint("qr", __name__)

#: Fields of a query that are looked at.
_MAX_FIELDS = 100
_TYPES = {"svg": "image/svg+xml", "png": "image/png", "json": "application/json"}


@blueprint.get("/qr.svg")
def svg() -> Response:
    """Draw the code as SVG, without a size of its own."""
    return _answer("svg")


@blueprint.get("/qr.png")
def png() -> Response:
    """Draw the code as PNG, about 500 pixels wide."""
    return _answer("png")


@blueprint.get("/qr.json")
def text() -> Response:
    """Give the text that the images hold."""
    return _answer("json")


def _answer(kind: str) -> Response:
    service = current_service()
    try:
        chosen = _parameters(request.query_string.decode("latin-1"))
    except PayloadError as error:
        return problem_response(400, str(error), {"parameter": error.field})
    offer = _offer(service.store.view.snapshot.plain.body)
    if not offer:
        return problem_response(404, "there is no endpoint to put into a code")
    try:
        text = qr.fit(offer, *chosen)
    except QrTooLong as error:
        return problem_response(422, str(error), _overflow(error))
    settings = service.settings
    private = "private, " if settings.tokens or settings.tokens_file else ""
    response = Response(content_type=_TYPES[kind])
    # Never older than the list: a code that was true a minute ago leads nobody anywhere.
    response.headers["Cache-Control"] = f"{private}no-cache"
    response.set_etag(hashlib.sha256(f"{kind} {text.text}".encode()).hexdigest()[:32])
    response.make_conditional(request)
    if response.status_code == 200:
        response.data = _draw(kind, text, _title(offer, chosen[2], text))
    return response


def choose(query: str, body: bytes) -> qr.QrText | None:
    """Find what a code would hold, without drawing it; None where there is no endpoint.

    Args:
        query: As for the routes.
        body: The wire form of the list.

    Raises:
        PayloadError: If a parameter cannot be used.
        QrTooLong: If the text does not fit.
    """
    chosen = _parameters(query)
    offer = _offer(body)
    return qr.fit(offer, *chosen) if offer else None


def _parameters(query: str) -> tuple[str | None, str | None, int | None]:
    """Read ``format``, ``room_id`` and ``limit`` from a query; others are passed over.

    Raises:
        PayloadError: Naming the one that cannot be used.
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
    # Whatever is no number is as far out of range as can be.
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


def _title(offer: qr.Offer, limit: int | None, text: qr.QrText) -> str:
    most = 1 if text.format == "single" else limit or max(offer.counts)
    api, socketio = (min(count, most) for count in offer.counts)
    return f"QR code with {api} API and {socketio} Socket.io endpoints"


# Keyed by the bytes that the store holds: they are compared by identity, and hashed once.
@lru_cache(maxsize=1)
def _offer(body: bytes) -> qr.Offer:
    return qr.Offer.of_body(body)


# All who look at the dashboard ask for the same ones.
@lru_cache(maxsize=32)
def _draw(kind: str, text: qr.QrText, title: str) -> bytes:
    if kind == "json":
        return text.text.encode()
    return qr.image(text.text, kind, title=title)
